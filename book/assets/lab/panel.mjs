// The lab as the reader sees it: controls above, both networks side by side, the loss below.

import { ABOUT, ATTACKS, FACTOR, NAMES, NORMS, SIDE, STEPS, STOPS, attackTitle, iterated } from "./settings.mjs";
import { chart, column, h, ownImage, screen, segments, select, slider, uniqueId, write } from "./view.mjs";

/** What the slider of steps shows for attacks that are not iterative. */
const ONE_STEP = { noise: "none", fgsm: "one" };

/** Milliseconds without a new image before the result is said to a screen reader. */
const QUIET = 500;

/**
 * @typedef {object} Actions
 * @property {(what: object) => void} change  part of a setting
 * @property {(place: number, pixels: Uint8Array) => void} choose  one of the stored images
 * @property {(file: File) => void} upload
 * @property {() => void} retry
 */

/**
 * @param {import("./settings.mjs").Setting} setting  read anew for each drawing
 * @param {object} opening  classes, variants
 * @param {Actions} actions
 */
export function makePanel(setting, { classes, variants }, actions) {
  const controls = makeControls(setting, classes, actions);
  const strip = makeStrip(setting.image, classes, variants, actions.choose);
  const columns = Object.values(NAMES).map((name) => column(name, classes, SIDE, FACTOR));
  const loss = chart(NAMES);
  const status = h("p", { class: "advlib-status", role: "status" });
  const said = h("p", { class: "advlib-hidden", "aria-live": "polite" });
  const problem = h("span");
  const failure = h("p", { class: "advlib-error", role: "alert", hidden: true }, problem, " ",
    h("button", { type: "button", class: "lab-retry", onclick: actions.retry }, "Try again"));
  const element = h(
    "div",
    { role: "group", "aria-label": "Live Lab" },
    h("div", { class: "lab-images" }, strip.element, ownImage(actions.upload)),
    controls.element,
    failure,
    h("div", { class: "lab-columns" }, columns.map((one) => one.element)),
    status,
    loss.element,
    said,
  );
  let loading = false;
  let note = "";
  let timer = 0;

  function say(lines) {
    clearTimeout(timer);
    timer = setTimeout(() => said.replaceChildren(`${lines.join(". ")}.`), QUIET);
  }

  function draw(results) {
    const lists = Object.values(results);
    const role = setting.attack === "noise" ? "noise" : "adversarial";
    const lines = lists.map((list, n) => {
      const found = list[setting.stop];
      columns[n].stale(!found);
      return found && columns[n].update(found, setting.image.pixels, setting.image.y, role);
    });
    const missing = lines.some((line) => !line);
    const busy = loading ? "Loading the networks (1.2 MB) …" : "Computing …";
    write(status, missing && failure.hidden ? busy : note);
    if (!missing) say(lines);
    drawLoss(lists);
    controls.follow();
  }

  function drawLoss(lists) {
    const goal = classes[setting.attack === "targeted" ? setting.target : setting.image.y];
    const title = `Loss of “${goal}”`;
    if (iterated(setting.attack)) {
      const steps = STEPS[setting.steps];
      const lines = lists.map((list) => list[setting.stop]?.losses ?? []);
      if (lines.every((line) => line.length)) {
        // With epsilon 0 no step is taken, and the loss stays.
        const whole = lines.map((line) => (line.length > 1 ? line : Array(steps + 1).fill(line[0])));
        loss.update(whole, { title, axis: "step", tick: String }, steps);
      }
      return;
    }
    const lines = lists.map((list) => Array.from({ length: STOPS }, (_, i) => list[i]?.losses.at(-1)));
    if (lines.some((line) => line.some((value) => value !== undefined))) {
      const { axis } = NORMS[setting.norm];
      loss.update(lines, { title, axis, tick: String }, setting.stop);
    }
  }

  /** What is shown, as a figure; null without a result. */
  function figure() {
    if (columns.some((one) => one.element.classList.contains("lab-stale"))) return null;
    const { attack, norm, stop, target, image } = setting;
    const title = attackTitle(attack, classes[target], NORMS[norm], NORMS[norm].text(stop));
    const clean = screen(SIDE, "");
    clean.paint((i) => image.pixels[i]);
    const rows = Object.values(NAMES).map((name, n) => {
      const { image: attacked, change, lines } = columns[n].shown();
      return [
        { canvas: clean.canvas, lines: ["clean", classes[image.y]] },
        { canvas: change, lines: [`change × ${FACTOR}`] },
        { canvas: attacked, lines: [name, ...lines] },
      ];
    });
    return { title, rows };
  }

  return {
    element,
    draw,
    figure,
    showImages: strip.show,
    pick: strip.pick,
    forget: strip.clear,
    loading: (is) => (loading = is),
    note: (text) => (note = text),
    failed(text) {
      problem.textContent = text;
      failure.hidden = !text;
    },
  };
}

function makeControls(setting, classes, actions) {
  const eps = slider("epsilon", STOPS, setting.stop, (i) => NORMS[setting.norm].text(i),
    (stop) => actions.change({ stop }));
  const stepsText = (i) => (iterated(setting.attack) ? String(STEPS[i]) : ONE_STEP[setting.attack]);
  const steps = slider("steps", STEPS.length, setting.steps, stepsText, (i) => actions.change({ steps: i }));
  const target = select("target", classes, setting.target, (i) => actions.change({ target: i }));
  const truth = select("true class", classes, setting.image.y,
    (y) => actions.change({ image: { ...setting.image, y } }));
  const about = h("p", { class: "advlib-note lab-about lab-wide" });
  const norms = Object.entries(NORMS).map(([norm, { name }]) => [norm, name]);
  const element = h(
    "div",
    { class: "advlib-controls" },
    truth.element,
    segments("attack", ATTACKS, setting.attack, (attack) => actions.change({ attack }), { wide: true }),
    about,
    eps.element,
    segments("norm", norms, setting.norm, (norm) => actions.change({ norm })),
    steps.element,
    target.element,
  );
  return {
    element,
    /** Shows what belongs to the present setting. */
    follow() {
      write(about, ABOUT[setting.attack]);
      steps.input.disabled = !iterated(setting.attack);
      target.list.disabled = setting.attack !== "targeted";
      truth.element.hidden = !setting.image.own;
      target.list.value = String(setting.target);
      truth.list.value = String(setting.image.y);
      eps.update();
      steps.update();
    },
  };
}

/**
 * The stored images as radio buttons.
 * @param {{name: number, pixels: Uint8Array}} first  the one that is chosen at the beginning
 * @param {(place: number, pixels: Uint8Array) => void} choose
 */
export function makeStrip(first, classes, variants, choose) {
  const name = uniqueId();
  const places = Array.from({ length: classes.length * variants }, (_, place) => {
    const label = `${classes[Math.floor(place / variants)]}${place % variants ? `, ${1 + (place % variants)}` : ""}`;
    const image = screen(SIDE, "");
    image.canvas.removeAttribute("role");
    image.canvas.removeAttribute("aria-label");
    const input = h("input", {
      type: "radio",
      name,
      value: place,
      "aria-label": label,
      checked: place === first.name,
      disabled: place !== first.name,
    });
    return { input, image, element: h("label", { title: label }, input, image.canvas) };
  });
  const element = h("fieldset", {}, h("legend", { class: "advlib-label" }, "Pick an image"),
    h("div", { class: "lab-strip" }, places.map((place) => place.element)));
  const paint = (place, pixels) => place.image.paint((i) => pixels[i]);
  paint(places[first.name], first.pixels);
  return {
    element,
    /** @param {Uint8Array} all  the images' bytes, one image after the other */
    show(all) {
      const length = SIDE * SIDE * 3;
      places.forEach((place, i) => {
        const pixels = all.subarray(i * length, (i + 1) * length);
        paint(place, pixels);
        place.input.disabled = false;
        place.input.onchange = () => choose(i, pixels);
      });
    },
    /** Chooses one of the images that are shown, if there is such a place. */
    pick(at) {
      if (!places[at]) return;
      places[at].input.checked = true;
      places[at].input.onchange();
    },
    clear: () => places.forEach((place) => (place.input.checked = false)),
  };
}
