// The brush of lesson 7: the reader chooses the pixels that an attack may change, and sees what the
// same attack makes of as many pixels that were chosen in other ways.

import { base64Bytes, reasonOf } from "./files.mjs";
import { loadEngines, loadImages } from "./load.mjs";
import { makeStrip } from "./panel.mjs";
import { SIDE } from "./settings.mjs";
import { bars, h, percent, screen, segments, uniqueId, whenLookedAt, write } from "./view.mjs";

const PGD = { attack: "pgd", norm: "linf", eps: 6 / 255, steps: 10 };
const CHOICES = [
  ["clean", "Not attacked"], ["own", "Your pixels"], ["support", "Most supportive"],
  ["steep", "Steep in other signs"], ["disc", "Disc in the middle"], ["random", "Random"],
];
/** How far from its middle each brush paints, in pixels. */
const BRUSHES = { broad: 3.5, fine: 0.5, eraser: 3.5 };
/** How many pixels a copied choice has: one in twenty. */
const COPIED = 205;
const ARROWS = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] };
/** How bright what may not change is drawn. */
const DIM = 0.5;
/** Milliseconds before results are said to a screen reader. */
const PAUSE = 500;

export function makeBrush(root, { image, pixels, classes, variants, most, orders }, engineScope) {
  const { folder, version } = root.dataset;
  const order = Object.fromEntries(Object.entries(orders).map(([name, packed]) => {
    return [name, new Uint16Array(base64Bytes(packed).buffer)];
  }));
  const chosen = new Uint8Array(SIDE * SIDE);
  const first = { name: image, pixels: base64Bytes(pixels) };
  let shown = first;
  let brush = "broad";
  /** Where the brush is, and whether it draws: between pressing and letting go. */
  let at = [SIDE / 2, SIDE / 2], drawing = false;
  let engine = null, loading = false, ask = 0, timer = 0;

  const strip = makeStrip(first, classes, variants, (name, chosenPixels) => {
    shown = { name, pixels: chosenPixels };
    changed();
  });
  const hint = h("p", { class: "advlib-note", id: uniqueId() },
    "Paint with mouse or finger; with the keyboard, arrows move the brush and space paints.");
  const pad = screen(SIDE, "Pixels that may change");
  const set = (name, value) => pad.canvas.setAttribute(name, value);
  set("tabindex", "0");
  set("role", "application");
  set("aria-describedby", hint.id);
  const count = h("p", { class: "advlib-label", role: "status" });
  const rows = CHOICES.map(([, name]) => makeRow(name));
  const title = h("p", { class: "advlib-label" });
  const said = h("p", { class: "advlib-hidden", "aria-live": "polite" });
  const busy = h("p", { class: "advlib-status" });
  const reason = h("span");
  const failure = h("p", { class: "advlib-error", role: "alert", hidden: true }, reason, " ",
    h("button", { type: "button", class: "lab-retry", onclick: load }, "Try again"));
  const button = (text, onclick) => h("button", { type: "button", onclick }, text);
  const copies = Object.keys(order).map((name) => button(name, () => copy(name)));
  const tools = segments("brush", Object.keys(BRUSHES).map((name) => [name, name]), brush, (name) => (brush = name));
  root.replaceChildren(
    h("div", { role: "group", "aria-label": "Brush" },
      strip.element, failure,
      h("div", { class: "lab-brush" },
        h("div", {}, tools, pad.canvas, count,
          h("p", { class: "lab-link" }, button("clear", () => copy(null)), "copy: ", copies), hint),
        h("div", {}, title, rows.map((row) => row.element), busy)),
      said),
  );

  const total = () => chosen.reduce((sum, one) => sum + one, 0);
  const label = () => Math.floor(shown.name / variants);

  /** The pixels of a choice: as many as the reader's. */
  function pixelsOf(name, many = total()) {
    if (name === "own") return chosen;
    const mine = order[name].length > most ? most * shown.name : 0;
    const mask = new Uint8Array(SIDE * SIDE);
    for (const pixel of order[name].subarray(mine, mine + many)) mask[pixel] = 1;
    return mask;
  }

  function copy(name) {
    chosen.set(name ? pixelsOf(name, COPIED) : new Uint8Array(SIDE * SIDE));
    changed();
  }

  /** Paints or erases around a place. */
  function dab([across, down]) {
    const value = Number(brush !== "eraser");
    let left = value ? most - total() : SIDE * SIDE;
    for (let pixel = 0; pixel < SIDE * SIDE && left > 0; pixel++) {
      const away = Math.hypot((pixel % SIDE) + 0.5 - across, Math.floor(pixel / SIDE) + 0.5 - down);
      if (away > BRUSHES[brush] || chosen[pixel] === value) continue;
      chosen[pixel] = value;
      left -= 1;
    }
  }

  /** Paints along the way to a place. */
  function stroke(to) {
    const steps = Math.ceil(Math.hypot(to[0] - at[0], to[1] - at[1])) || 1;
    for (let i = 1; i <= steps; i++) dab(at.map((from, k) => from + ((to[k] - from) * i) / steps));
    at = to;
    draw();
  }

  /** Draws what the reader has chosen; a ring shows where the keyboard's brush is. */
  function draw() {
    const ring = pad.canvas.matches(":focus-visible");
    pad.paint((i) => {
      const pixel = Math.floor(i / 3);
      const away = Math.hypot((pixel % SIDE) + 0.5 - at[0], Math.floor(pixel / SIDE) + 0.5 - at[1]);
      if (ring && Math.abs(away - BRUSHES[brush] - 1) < 0.6) return 255 * (Math.round(away + pixel) % 2);
      return shown.pixels[i] * (chosen[pixel] ? 1 : DIM);
    });
    const many = total();
    write(count, `${many} of ${SIDE * SIDE} pixels${many === most ? ": no more than a tenth" : ""}`);
    set("aria-label", `${classes[label()]}: pixels that may change`);
  }

  /** Draws, and attacks anew. */
  function changed() {
    draw();
    write(title, `Probability of “${classes[label()]}” after PGD within 6/255 on as many pixels`);
    const masks = CHOICES.map(([name]) => (name === "clean" ? null : pixelsOf(name)));
    rows.forEach((row, place) => row.begin(shown.pixels, masks[place]));
    if (!engine) return;
    write(busy, "Computing …");
    ask += 1;
    const tasks = masks.map((where, place) => ({ ...PGD, place, y: label(), where, eps: where ? PGD.eps : 0 }));
    const x = Float64Array.from(shown.pixels, (value) => value / 255);
    const lines = [];
    engine.send({ ask, x, tasks, wanted: 1 }, (place, found) => {
      lines.push(rows[place].end(found, classes, label()));
      if (lines.length < CHOICES.length) return;
      write(busy, "");
      clearTimeout(timer);
      timer = setTimeout(() => said.replaceChildren(`${lines.join(". ")}.`), PAUSE);
    });
  }

  async function load() {
    if (loading || engine) return;
    loading = true;
    failure.hidden = true;
    write(busy, "Loading the network (1.2 MB) …");
    try {
      strip.show(await loadImages(folder, version, classes.length * variants));
      engine = (await loadEngines(folder, version, engineScope, stopped, ["standard"])).standard;
      changed();
    } catch (error) {
      fail(`The network could not be loaded. ${reasonOf(error)}`);
    }
    loading = false;
  }

  function stopped(why) {
    engine = null;
    fail(`The network stopped computing (${why}).`);
  }

  function fail(why) {
    reason.textContent = why;
    failure.hidden = false;
    write(busy, "");
  }

  const placeOf = (event) => {
    return [event.offsetX / pad.canvas.clientWidth, event.offsetY / pad.canvas.clientHeight].map((part) => SIDE * part);
  };
  Object.assign(pad.canvas, {
    onpointerdown(event) {
      pad.canvas.setPointerCapture(event.pointerId);
      drawing = true;
      at = placeOf(event);
      stroke(at);
    },
    onpointermove: (event) => drawing && stroke(placeOf(event)),
    onpointerup: () => drawing && letGo(),
    onpointercancel: () => drawing && letGo(),
    onfocus: draw,
    onblur: draw,
    onkeydown(event) {
      const [across, down] = ARROWS[event.key] ?? [0, 0];
      if (!ARROWS[event.key] && event.key !== " ") return;
      event.preventDefault();
      at = [at[0] + across, at[1] + down].map((one) => Math.min(Math.max(one, 0), SIDE));
      if (event.key === " ") dab(at);
      if (event.key === " ") changed();
      else draw();
    },
  });
  function letGo() {
    drawing = false;
    changed();
  }

  changed();
  whenLookedAt(root, load);
}

/** One choice of pixels: which they are, what the attack makes of the sign, how sure the network is. */
function makeRow(name) {
  const mask = screen(SIDE, `${name}: which may change`);
  const image = screen(SIDE, `${name}: the sign`);
  const bar = bars(1, name);
  const element = h("section", { class: "lab-row", "aria-label": name }, mask.canvas, image.canvas,
    h("div", {}, h("p", {}, name), bar.element));
  bar.update([{ name: "…", share: 0, role: "clean" }]);
  return {
    element,
    begin(pixels, where) {
      element.classList.add("lab-stale");
      mask.paint((i) => pixels[i] * (!where || where[Math.floor(i / 3)] ? 1 : DIM));
      image.paint((i) => pixels[i]);
    },
    end(found, classes, y) {
      const predicted = found.probabilities.indexOf(Math.max(...found.probabilities));
      const share = found.probabilities[y];
      element.classList.remove("lab-stale");
      image.paint((i) => 255 * found.image[i]);
      bar.update([{ name: `predicts ${classes[predicted]}`, share, role: predicted === y ? "clean" : "adversarial" }]);
      return `${name}: predicts ${classes[predicted]}, ${classes[y]} ${percent(share)}`;
    },
  };
}
