// Noise, FGSM and PGD as `advlib.attacks` has them, for one image and one network.
//
// Pixels are in [0, 1]. The attacks are generators that pause at every gradient, so that a page can
// stop one that is no longer needed, and stays responsive where there is no Worker.

/** @typedef {"linf" | "l2"} Norm */

/**
 * What an attack found.
 * @typedef {object} Found
 * @property {Float64Array | Float32Array} image  shorter once it has been sent to the page
 * @property {number[]} probabilities
 * @property {number[]} losses  at the image itself, and at every point of the attack's path
 */

/**
 * A point on an attack's path.
 * @typedef {object} Point
 * @property {number} step
 * @property {Float64Array | Float32Array} image
 * @property {number} loss
 * @property {number[]} probabilities
 */

/** A source of random numbers in [0, 1) that gives the same ones for the same seed (mulberry32). */
export function randomSource(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Softmax; the largest logit is subtracted first, so that nothing overflows. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** Cross-entropy of class `y`, in nats; finite also where the probability rounds to 0. */
export function crossEntropy(logits, y) {
  const largest = Math.max(...logits);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  return Math.log(total) + largest - logits[y];
}

/** One seed for all noise: it grows with epsilon and keeps its pattern. */
const SEED = 0;

const indexOfLargest = (values) => values.indexOf(Math.max(...values));

/**
 * A network as the attacks see it.
 * @param {import("./layers.mjs").Layer} network
 */
export function classifier(network) {
  let probabilities = [];
  return {
    /** Loss of class `y`, and the probabilities of all classes. */
    look(image, y) {
      const logits = network.forward(image);
      probabilities = softmax(logits);
      return { loss: crossEntropy(logits, y), probabilities };
    },
    /** Gradient of the loss of class `y` at the image last looked at, taken once; valid until the next. */
    gradient(y) {
      const slope = Float64Array.from(probabilities);
      slope[y] -= 1;
      return network.backward(slope);
    },
  };
}

const length = (delta) => Math.sqrt(delta.reduce((sum, value) => sum + value * value, 0));
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** `x + by * delta`, cut off at the box [0, 1]. */
const cutAtBox = (x, delta, by) => x.map((value, i) => clip(value + by * delta[i], 0, 1));

/** How far `cutAtBox` moves the image. */
function cutLength(x, delta, by) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const moved = clip(x[i] + by * delta[i], 0, 1) - x[i];
    sum += moved * moved;
  }
  return Math.sqrt(sum);
}

/**
 * `x + by * delta`, cut off at the box, for the largest `by` up to `most` that moves no further than
 * `eps`: what a pixel at the edge of the box cannot use goes to the others. With `most` 1 this is
 * the closest point of ball and box; with no limit, the best step along a gradient.
 */
function scaleIntoBox(x, delta, eps, most) {
  if (cutLength(x, delta, most) <= eps) return cutAtBox(x, delta, most);
  let low = 0, high = most;
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (cutLength(x, delta, middle) > eps) high = middle;
    else low = middle;
  }
  return cutAtBox(x, delta, low);
}

/** `x + delta`, projected into the ball of radius `eps` and into [0, 1]. */
function confine(x, delta, eps, norm) {
  if (norm === "l2") return scaleIntoBox(x, delta, eps, 1);
  return x.map((value, i) => clip(value + clip(delta[i], -eps, eps), 0, 1));
}

/**
 * Noise of size `eps`. In linf every pixel value moves by exactly `eps`, up or down: the largest
 * noise there is. In l2 the direction is random, and its length is `eps`.
 */
function randomPoint(count, eps, norm, random) {
  if (norm === "linf") return Float64Array.from({ length: count }, () => (random() < 0.5 ? -eps : eps));
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return steepest(Float64Array.from({ length: count }, normal), eps, norm);
}

/** The perturbation of size `eps` along which a linear function rises fastest. */
function steepest(grad, eps, norm) {
  if (norm === "linf") return grad.map((value) => eps * Math.sign(value));
  const scale = eps / (length(grad) || 1);
  return grad.map((value) => value * scale);
}

/** The gradient at the pixels that may change, and zero elsewhere. */
function restrict(where, grad) {
  return where ? grad.map((value, i) => value * where[Math.floor(i / 3)]) : grad;
}

/** The best single step that ball and box allow. */
function singleStep(x, grad, eps, norm) {
  const step = steepest(grad, eps, norm);
  // A thousand times the step: by then every pixel that moves at all has met the box.
  return norm === "l2" ? scaleIntoBox(x, step, eps, 1000) : confine(x, step, eps, norm);
}

/**
 * What an attack is to do.
 * @typedef {object} Task
 * @property {"noise" | "fgsm" | "pgd" | "targeted"} attack
 * @property {Norm} norm
 * @property {number} eps
 * @property {number} steps  of PGD
 * @property {number} y  the class whose loss is raised, or lowered if it is the target
 * @property {Uint8Array} [where]  1 for each pixel that FGSM and PGD may change; without it, all may
 */

/**
 * Runs an attack. Each `next()` does the work of one gradient; PGD then hands out the point that it
 * has looked at. The value at the end is what the attack found.
 * @param {ReturnType<typeof classifier>} model
 * @param {Float64Array} x
 * @param {Task} task
 * @returns {Generator<Point | undefined, Found>}
 */
export function* run(model, x, { attack, norm, eps, steps, y, where }) {
  if (eps > 0 && (attack === "pgd" || attack === "targeted")) {
    return yield* climb(model, x, { norm, eps, steps, y, where, targeted: attack === "targeted" });
  }
  const clean = model.look(x, y);
  if (eps === 0) return { image: x, probabilities: clean.probabilities, losses: [clean.loss] };
  const image = attack === "noise"
    ? confine(x, randomPoint(x.length, eps, norm, randomSource(SEED)), eps, norm)
    : singleStep(x, restrict(where, model.gradient(y)), eps, norm);
  yield;
  const { loss, probabilities } = model.look(image, y);
  return { image, probabilities, losses: [clean.loss, loss] };
}

/**
 * PGD from the image itself, so that its path begins at zero. Of all points visited the best is
 * kept: one that reaches the goal before one that does not, then the one with the better loss.
 */
function* climb(model, x, { norm, eps, steps, y, where, targeted }) {
  const stepSize = (2.5 * eps) / steps; // enough to cross the ball and to turn
  const up = targeted ? -1 : 1;
  let image = x;
  let best = { reached: false, score: -Infinity };
  const losses = [];
  for (let step = 0; step <= steps; step++) {
    const { loss, probabilities } = model.look(image, y);
    const reached = (indexOfLargest(probabilities) === y) === targeted;
    const score = up * loss;
    if (reached === best.reached ? score > best.score : reached) best = { image, probabilities, reached, score };
    losses.push(loss);
    if (step === steps) break;
    yield { step, image, loss, probabilities };
    const move = steepest(restrict(where, model.gradient(y)), up * stepSize, norm);
    image = confine(x, image.map((value, i) => value + move[i] - x[i]), eps, norm);
  }
  return { image: best.image, probabilities: best.probabilities, losses };
}
