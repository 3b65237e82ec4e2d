// Attacks that end on the levels of a file of 8 bits, as `advlib.attacks.eight_bit` has them: the
// network sees every image as a file would hold it, and the gradient passes as if it saw everything.

import { run } from "../lab/attacks.mjs";

/** A budget in 255ths; one between two levels is worth the lower one. */
const wholeBudget = (eps) => Math.floor(eps + 1e-6); // 255 * (8 / 255) may fall short of 8

/** The image as a file would hold it. */
const rounded = (image) => image.map((value) => Math.round(255 * value) / 255);

/**
 * As `run`; with `levels` in the task the result lies on whole levels, inside ball and box. So has `x` to.
 * @param {import("../lab/attacks.mjs").Task & {levels?: boolean}} task
 */
export function* runOnLevels(model, x, { levels, ...task }) {
  if (!levels) return yield* run(model, x, task);
  const { attack, norm, eps, y } = task;
  const budget = norm === "linf" ? wholeBudget(255 * eps) : 255 * eps;
  const rounding = { ...model, look: (image, ofClass) => model.look(rounded(image), ofClass) };
  const found = yield* run(rounding, x, { ...task, eps: budget / 255 });
  // In linf rounding keeps to the budget by itself.
  const image = norm === "linf" ? rounded(found.image) : affordable(x, found.image, budget);
  const { loss, probabilities } = model.look(image, y);
  const single = attack === "noise" || attack === "fgsm";
  return { image, probabilities, losses: single ? [found.losses[0], loss] : found.losses };
}

/**
 * `x` with its changes in whole levels, each rounded to the nearest as long as the budget, a length in
 * 255ths, pays for it: those that are furthest above a level first.
 */
function affordable(x, image, budget) {
  const change = Float64Array.from(image, (value, i) => 255 * (value - x[i]));
  const size = change.map((moved) => Math.floor(Math.abs(moved)));
  const above = change.map((moved, i) => Math.abs(moved) - size[i]);
  let left = budget ** 2 * (1 + 1e-9) - size.reduce((sum, level) => sum + level * level, 0);
  const wanted = Array.from(above.keys()).filter((i) => above[i] >= 0.5);
  for (const i of wanted.sort((i, j) => above[j] - above[i])) {
    left -= 2 * size[i] + 1; // what the next level costs; after one too dear, no other is bought
    if (left >= 0) size[i] += 1;
  }
  return change.map((moved, i) => (Math.round(255 * x[i]) + Math.sign(moved) * size[i]) / 255);
}
