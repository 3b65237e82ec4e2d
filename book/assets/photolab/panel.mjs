// The Photo Lab as the reader sees it: controls above, the clean and the attacked image side by side
// or one over the other, the loss below.

import { STEPS, attackTitle, iterated } from "../lab/settings.mjs";
import { bars, chart, h, percent, screen, segments, slider, write } from "../lab/view.mjs";
import { PHOTO_NORMS, PHOTO_SIDE } from "./choices.mjs";
import { makeDownload, makePhotoControls, makePhotographs } from "./controls.mjs";
import { makeSaving } from "./saving.mjs";

/** Milliseconds without a new result before it is said to a screen reader. */
const PAUSE = 500;

const BARS = 5;

/** What a change may be magnified by: the largest of these that leaves it inside the grey's range. */
const FACTORS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/**
 * @typedef {object} Shown
 * @property {?import("./answers.mjs").Result} result  at the present setting
 * @property {?import("./answers.mjs").Result} path  an attack on its way there
 * @property {?import("./answers.mjs").Result} clean  of the photograph itself
 * @property {number | undefined} goal  the class whose loss is shown
 * @property {boolean} coming  whether a stored result is on its way
 * @property {(number | undefined)[]} losses  along the stops of epsilon, of the present attack
 * @property {import("./networks.mjs").Network} network  the one that is chosen
 * @property {string} note  about the image
 * @property {string} failure
 * @property {import("./saving.mjs").SavedFile[]} files  of the result
 * @property {boolean} reached  whether the result is what its attack aims at
 */

/**
 * @param {import("./choices.mjs").PhotoSetting} setting  read anew for each drawing
 * @param {object} opening  photographs, budgets, networks
 * @param {object} actions  change, choose, upload, load, cancel, save, share
 */
export function makePhotoPanel(setting, { photographs, budgets, image, networks }, folder, actions) {
  let names = [];
  const picks = makePhotographs(photographs, image, folder, actions);
  const controls = makePhotoControls(setting, budgets, networks, actions);
  const download = makeDownload({ ...actions, loaded: controls.focus });
  const screens = makeScreens();
  const clean = makeReading("clean"), attacked = makeReading("attacked");
  const loss = chart({ loss: "The network" });
  const saving = makeSaving(actions.save);
  const status = h("p", { class: "advlib-status", role: "status" });
  const said = h("p", { class: "advlib-hidden", "aria-live": "polite" });
  const failure = h("p", { class: "advlib-error", role: "alert", hidden: true });
  const element = h(
    "div",
    { role: "group", "aria-label": "Photo Lab" },
    picks.element, controls.element, download.element, failure,
    screens.element,
    h("div", { class: "photo-readings" }, clean.element, attacked.element),
    status, loss.element, saving.element, h("div", { class: "lab-share" }, actions.share), said,
  );
  let timer = 0;
  /** What was drawn last. */
  let last = null;

  function say(text) {
    clearTimeout(timer);
    timer = setTimeout(() => write(said, text), PAUSE);
  }

  /** What the line below the images says. */
  function line({ result, path, coming, network: { state }, note }) {
    if (!setting.image) return "Loading the photograph …";
    if (path) return "Computing …";
    if (coming) return "Loading the stored answer …";
    if (result || state === "loading") return note;
    return state === "none" ? `${note} This needs the network: load it above.`.trim() : "Computing …";
  }

  function drawLoss({ result, path, losses, goal }) {
    const { attack, norm, steps, stop } = setting;
    let values = losses, axis = PHOTO_NORMS[norm].axis, at = stop;
    let tick = (i) => String(budgets[norm][i]);
    if (iterated(attack)) {
      const found = (result ?? path)?.losses ?? [];
      values = Array.from({ length: STEPS[steps] + 1 }, (_, i) => found[i]);
      [axis, tick, at] = ["step", String, Math.max(found.length - 1, 0)];
    }
    const known = values.some((value) => value !== undefined);
    loss.element.classList.toggle("photo-empty", !known);
    if (known) loss.update([values], { title: `Loss of “${names[goal]}”`, axis, tick }, at);
  }

  /** @param {Shown} shown */
  function draw(shown) {
    const { result, path, network, failure: problem } = (last = shown);
    picks.follow(setting.image?.own ? null : setting.image?.name ?? image);
    controls.follow();
    download.update(network);
    write(failure, problem);
    failure.hidden = !problem;
    write(status, line(shown));
    const latest = result ?? path;
    screens.update(setting.image, latest, !result);
    const y = shown.clean?.rows[0][0];
    const words = [clean.update(shown.clean, names, y, "clean")];
    const role = setting.attack === "noise" ? "noise" : "adversarial";
    words.push(attacked.update(latest, names, y, role, !result));
    drawLoss(shown);
    saving.update({ ...shown, names, title: setting.image?.name ?? "", levels: setting.levels });
    if (result) say(words.join(" "));
  }

  /** What is shown, as a figure; null without a result. */
  function figure() {
    if (!last?.result) return null;
    const { attack, norm, stop, target } = setting;
    const eps = PHOTO_NORMS[norm].text(budgets[norm][stop]);
    const title = `${attackTitle(attack, names[target], PHOTO_NORMS[norm], eps)}; ${last.network.title}`;
    const reading = ({ rows: [[first, share]] }) => [`predicts ${names[first]}`, percent(share)];
    const { clean: before, change, attacked: after } = screens.shown();
    return {
      title,
      rows: [[
        { canvas: before, lines: ["clean", ...reading(last.clean)] },
        { canvas: change.canvas, lines: change.lines },
        { canvas: after, lines: [attack === "noise" ? "with noise" : "attacked", ...reading(last.result)] },
      ]],
    };
  }

  return {
    element,
    draw,
    figure,
    /** @param {string[]} all  the names of the classes */
    names(all) {
      names = all;
      controls.names(all);
    },
  };
}

/** What the network says of one image. */
function makeReading(title) {
  const verdict = h("p", { class: "photo-verdict" });
  const rows = bars(BARS, `Most probable classes, ${title}`);
  const element = h("section", { "aria-label": title }, h("p", { class: "advlib-label" }, title), verdict, rows.element);
  return {
    element,
    /** @returns {string}  the same in a sentence */
    update(result, names, y, role, stale = false) {
      element.classList.toggle("photo-stale", stale);
      element.classList.toggle("photo-empty", !result);
      if (!result) {
        write(verdict, "");
        return "";
      }
      const [[first, share]] = result.rows;
      write(verdict, `predicts ${names[first]}`);
      verdict.classList.toggle("photo-wrong", first !== y);
      rows.update(result.rows.map(([i, p]) => ({ name: names[i], share: p, role: i === y ? "clean" : role })));
      return `${title}: predicts ${names[first]}, ${percent(share)}.`;
    },
  };
}

/** Clean image, attacked image and the change: side by side, or the first two one over the other. */
function makeScreens() {
  const clean = screen(PHOTO_SIDE, "The photograph as it is");
  const attacked = screen(PHOTO_SIDE, "The photograph with the change");
  const change = screen(PHOTO_SIDE, "The change");
  const caption = h("figcaption");
  for (const { canvas } of [attacked, change]) canvas.classList.add("photo-changed");
  const places = [clean, attacked].map(({ canvas }) => h("div", {}, canvas));
  const stage = h("div", { class: "photo-stage" });
  const swipe = slider("swipe", 101, 50, (i) => `${100 - i} % attacked`, move);
  const over = h("div", { class: "photo-over", hidden: true }, stage, swipe.element);
  const beside = h("div", { class: "photo-screens" },
    h("figure", {}, places[0], h("figcaption", {}, "clean")),
    h("figure", {}, places[1], h("figcaption", {}, "attacked")),
    h("figure", {}, change.canvas, caption));
  const views = segments("view", [["beside", "Side by side"], ["over", "Swipe"]], "beside", show);
  const element = h("div", { class: "photo-views" }, views, beside, over);
  let lines = [], painted = null;

  /** The attacked image lies over the clean one, and is cut off on the left. */
  function move(i) {
    attacked.canvas.style.clipPath = `inset(0 0 0 ${i}%)`;
  }

  function show(view) {
    const swiping = view === "over";
    beside.hidden = swiping;
    over.hidden = !swiping;
    [clean, attacked].forEach(({ canvas }, n) => (swiping ? stage : places[n]).append(canvas));
    if (swiping) move(Number(swipe.input.value));
    else attacked.canvas.style.clipPath = "";
  }

  return {
    element,
    update(photograph, result, stale) {
      element.classList.toggle("photo-stale", stale);
      if (!photograph) return;
      const { pixels } = photograph;
      const image = result?.image;
      if (pixels !== painted) clean.paint((i) => pixels[i]);
      painted = pixels;
      attacked.paint((i) => (image ? 255 * image[i] : pixels[i]));
      const { largest, length } = sizes(image, pixels);
      const factor = FACTORS.findLast((one) => one * largest <= 127) ?? 1;
      change.paint((i) => 127.5 + (image ? factor * (255 * image[i] - pixels[i]) : 0));
      change.canvas.setAttribute("aria-label", `The change, magnified ${factor} times`);
      lines = largest
        ? [`change × ${factor}`, `largest ${largest.toFixed(2)}/255`, `length ${(length / 255).toFixed(2)}`]
        : ["change: none"];
      write(caption, lines.join("; "));
    },
    /** What is drawn, and what is said of the change. */
    shown: () => ({ clean: clean.canvas, attacked: attacked.canvas, change: { canvas: change.canvas, lines } }),
  };
}

/** The largest change of a value, and the length of the whole change; both in 255ths. */
function sizes(image, pixels) {
  let largest = 0, sum = 0;
  for (let i = 0; image && i < pixels.length; i++) {
    const moved = Math.abs(255 * image[i] - pixels[i]);
    largest = Math.max(largest, moved);
    sum += moved * moved;
  }
  return { largest: largest < 1e-3 ? 0 : largest, length: Math.sqrt(sum) };
}
