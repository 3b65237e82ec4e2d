// The Photo Lab: the reader's choices on one side, an ImageNet network on the other.
//
// What noise and FGSM do to the shipped photographs is stored, so there is something to see before
// the network is loaded, and without it. The network computes one setting after the other, the
// present one; a new choice drops what is not finished.

import { copyLink, followAddress, placeOf, stateOfAddress } from "../lab/address.mjs";
import { ATTACKS, STEPS, iterated } from "../lab/settings.mjs";
import { UploadError, readUpload, watchForFiles } from "../lab/upload.mjs";
import { reasonOf } from "../lab/files.mjs";
import { h, whenLookedAt } from "../lab/view.mjs";
import { FAVOURITE, PHOTO_NORMS, PHOTO_SIDE } from "./choices.mjs";
import { loadClasses, loadPhotograph, resultOf, toUnit } from "./answers.mjs";
import { makePhotoPanel } from "./panel.mjs";
import { FILES, savedAs } from "./saving.mjs";
import { loadNetwork } from "./load.mjs";

/** How many results are kept. */
const RESULTS = 40;

/** The lab's name in the page's address. */
const PHOTO_LAB = "photo-lab";
const NO_FILES = [];

/**
 * Starts every Photo Lab of the page that does not run yet.
 * @param {function} engineScope  what a Worker runs
 */
export function start(engineScope) {
  for (const root of document.querySelectorAll(".advlib-photolab:not([data-started])")) {
    root.dataset.started = "";
    try {
      const stored = root.querySelector('script[type="application/json"]');
      makePhotoLab(root, JSON.parse(stored.textContent), engineScope);
    } catch (error) {
      root.replaceChildren(h("p", {}, "The Photo Lab could not be drawn in this browser."));
      console.warn(error);
    }
  }
}

function makePhotoLab(root, opening, engineScope) {
  const { folder, version } = root.dataset;
  const { budgets } = opening;
  /** @type {import("./choices.mjs").PhotoSetting} */
  const setting = {
    image: null, attack: "fgsm", norm: "linf", stop: opening.stop, steps: STEPS.indexOf(10), target: -1,
  };
  const results = new Map();
  const shown = { network: "none", arrived: 0, about: "", note: "", failure: "" };
  const link = copyLink(PHOTO_LAB, state);
  const panel = makePhotoPanel(setting, opening, folder, { change, choose, upload, load, cancel, save, link });
  const linked = stateOfAddress(PHOTO_LAB) ?? {};
  let names = [];
  /** The image that was chosen last, which may still be on its way. */
  let chosen = null;
  let engine = null;
  let control = null;
  /** What the engine works on: the key of a setting, or an image to classify. */
  let asked = null;
  let ask = 0;
  /** The attack on its way. */
  let path = null;
  /** The files of one result. */
  let saved = { key: "", files: NO_FILES };
  let scheduled = false;

  function draw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      const result = present(setting.stop);
      const losses = iterated(setting.attack) ? [] : budgets.linf.map((_, stop) => lastLoss(stop));
      const mine = key(setting.stop);
      const files = saved.key === mine ? saved.files : NO_FILES;
      const waits = result || asked !== mine;
      panel.draw({ ...shown, result, losses, files, path: waits ? null : path, reached: reached(result?.rows) });
    });
  }

  /** Whether what the network predicts is what the attack aims at. */
  function reached(rows) {
    return Boolean(rows) && (rows[0][0] === goal()) === (setting.attack === "targeted");
  }

  const lastLoss = (stop) => setting.image?.clean && present(stop)?.losses.at(-1);

  const goal = () => (setting.attack === "targeted" ? setting.target : setting.image.clean.rows[0][0]);

  function key(stop) {
    const { image, attack, norm, steps } = setting;
    if (!image?.clean) return "";
    return [image.name, attack, norm, stop, iterated(attack) ? steps : "", goal()].join();
  }

  /** What is known at the present setting, with another epsilon. */
  function present(stop) {
    const { image, attack, norm } = setting;
    if (!image?.clean) return null;
    if (stop === 0) return { ...image.clean, losses: attack === "targeted" ? [] : image.clean.losses };
    return results.get(key(stop)) ?? (norm === "linf" ? image.stored(attack, stop) : null);
  }

  /** Asks the network for what is missing. */
  function compute() {
    const { image } = setting;
    if (!engine || !image) return;
    if (!image.clean) classify(image);
    else if (!present(setting.stop)) attack(image, key(setting.stop));
  }

  function attack(image, mine) {
    if (asked === mine) return;
    const { attack: kind, norm, stop, steps } = setting;
    const y = goal();
    const eps = PHOTO_NORMS[norm].eps(budgets[norm][stop]);
    const task = { place: 0, attack: kind, norm, eps, steps: STEPS[steps], y, watched: true };
    const losses = [];
    path = { ...image.clean, losses }; // it begins at the photograph
    send(mine, image.pixels, task, (found, point) => {
      if (point) {
        losses.push(point.loss);
        path = { ...resultOf(point, y), losses };
      } else {
        keep(mine, resultOf(found, y));
      }
    });
  }

  function keep(name, result) {
    results.set(name, result);
    if (results.size > RESULTS) results.delete(results.keys().next().value);
  }

  function classify(image) {
    if (asked === image) return;
    look(image, image.pixels, -1, (clean) => {
      image.clean = clean;
      compute();
    });
  }

  /** Asks for the most probable classes of an image, `y` among them; -1 for the first of all. */
  function look(what, pixels, y, answer) {
    const task = { place: 0, attack: "noise", norm: "linf", eps: 0, steps: 1, y: 0 };
    send(what, pixels, task, ({ image, probabilities }) => {
      const first = probabilities.indexOf(Math.max(...probabilities));
      answer(resultOf({ image, probabilities, losses: [-Math.log(probabilities[first])] }, y < 0 ? first : y));
    });
  }

  function send(what, pixels, task, answer) {
    asked = what;
    ask += 1;
    engine.send({ ask, x: toUnit(pixels), tasks: [task], wanted: 0 }, (_, found, point) => {
      if (found) asked = null;
      answer(found, point);
      draw();
    });
  }

  /** Saves the attacked image in several ways, and asks the network what it makes of each file. */
  async function save() {
    const mine = (saved = { key: key(setting.stop), files: NO_FILES });
    const { image } = present(setting.stop);
    const y = goal();
    for (const [name, kind, quality] of FILES) {
      let file;
      try {
        const { blob, pixels } = await savedAs(image, kind, quality);
        const { rows } = await new Promise((resolve) => look({}, pixels, y, resolve));
        file = { name, blob, rows, reached: reached(rows) };
      } catch (error) {
        file = { name, problem: error instanceof UploadError ? error.message : reasonOf(error) };
      }
      if (saved !== mine || key(setting.stop) !== mine.key) return;
      mine.files = [...mine.files, file];
      draw();
    }
  }

  /** The present setting, for a link; an image of the reader's own is not in it. */
  function state() {
    const { image, attack, norm, stop, steps, target } = setting;
    const all = { attack, norm, eps: PHOTO_NORMS[norm].text(budgets[norm][stop]) };
    if (image && !image.own) all.image = image.name;
    if (iterated(attack)) all.steps = STEPS[steps];
    if (attack === "targeted") all.target = names[target];
    return all;
  }

  /** Takes over what a link says, as far as it says something. */
  function take(linked) {
    const attacks = ATTACKS.map(([attack]) => attack), norms = Object.keys(PHOTO_NORMS);
    setting.attack = attacks[placeOf(attacks, linked.attack, attacks.indexOf(setting.attack))];
    setting.norm = norms[placeOf(norms, linked.norm, norms.indexOf(setting.norm))];
    const stops = budgets[setting.norm].map((value) => PHOTO_NORMS[setting.norm].text(value));
    setting.stop = placeOf(stops, linked.eps, setting.stop);
    setting.steps = placeOf(STEPS.map(String), linked.steps, setting.steps);
  }

  function change(what) {
    Object.assign(setting, what);
    draw();
    compute();
  }

  function show(image, note) {
    shown.note = note;
    change({ image });
  }

  /** Shows an image as soon as it is there, unless another one has been chosen by then. */
  async function bring(coming, failed) {
    const mine = (chosen = {});
    shown.failure = "";
    try {
      const [classes, { image, note }] = await Promise.all([loadClasses(folder, version), coming]);
      if (!names.length) {
        names = classes.names;
        panel.names(names);
        setting.target = placeOf(names, linked.target, names.indexOf(FAVOURITE));
      }
      if (chosen === mine) show(image, note);
    } catch (error) {
      if (chosen === mine) failed(error);
      draw();
    }
  }

  function choose(name) {
    const coming = loadPhotograph(folder, version, name, budgets.linf);
    return bring(coming.then((image) => ({ image, note: "" })), (error) => {
      shown.failure = `This photograph could not be loaded. ${reasonOf(error)} Choose it again to try again.`;
    });
  }

  function upload(file) {
    const named = `own ${(ask += 1)}`;
    const coming = readUpload(file, PHOTO_SIDE).then(({ pixels, note }) => {
      return { image: { name: named, own: true, pixels, clean: null, stored: () => null }, note };
    });
    return bring(coming, (error) => {
      shown.note = error instanceof UploadError ? error.message : reasonOf(error);
    });
  }

  function cancel() {
    control?.abort();
  }

  async function load() {
    if (control) return;
    control = new AbortController();
    const { signal } = control;
    Object.assign(shown, { network: "loading", arrived: 0, failure: "" });
    draw();
    const progress = (arrived) => {
      shown.arrived = arrived;
      draw();
    };
    try {
      const weights = { folder, version, sha256: opening.sha256 };
      const started = await loadNetwork(weights, engineScope, KERNEL, { signal, progress }, stopped);
      engine = started.engine;
      shown.network = "ready";
      shown.about = aboutNetwork(started);
      compute();
    } catch (error) {
      shown.network = "none";
      if (error.name !== "AbortError") {
        shown.failure = `The network could not be loaded. ${reasonOf(error)} The stored answers are still here.`;
      }
    }
    control = null;
    draw();
  }

  /** The network has stopped: the reader may load it again. */
  function stopped(reason) {
    engine = asked = path = null;
    Object.assign(shown, {
      network: "none", arrived: 0,
      failure: `The network stopped computing (${reason}). What was computed is kept; load it again to go on.`,
    });
    draw();
  }

  take(linked);
  root.replaceChildren(panel.element);
  draw();
  followAddress(PHOTO_LAB, root);
  watchForFiles(root, upload);
  const titles = opening.photographs.map(([title]) => title);
  const first = titles[placeOf(titles, linked.image, titles.indexOf(opening.image))];
  whenLookedAt(root, () => chosen ?? choose(first));
}

/** What there is to say about the network that runs. */
function aboutNetwork({ simd, apart }) {
  const all = ["The network is loaded and computes in your browser."];
  if (!simd) all.push("It runs as JavaScript here, several times slower than where WebAssembly runs.");
  if (!apart) all.push("This browser lets no Worker run, so the page may answer late while it computes.");
  return all.join(" ");
}
