// The Photo Lab: the reader's choices on one side, an ImageNet network on the other.
//
// What noise, FGSM and PGD do to the shipped photographs is stored, so there is something to see before
// the network is loaded, and without it. The network computes one setting after the other, the
// present one; a new choice drops what is not finished. Where the build had the weights of a second
// network, the reader chooses between them.

import { copyLink, followAddress, placeOf, stateOfAddress } from "../lab/address.mjs";
import { downloadFigure } from "../lab/figure.mjs";
import { ATTACKS, STEPS, iterated } from "../lab/settings.mjs";
import { UploadError, readUpload, watchForFiles } from "../lab/upload.mjs";
import { reasonOf } from "../lab/files.mjs";
import { h, whenLookedAt } from "../lab/view.mjs";
import { FAVOURITE, PHOTO_NORMS, PHOTO_SIDE } from "./choices.mjs";
import { loadClasses, loadPgd, loadPhotograph, resultOf, toUnit } from "./answers.mjs";
import { makePhotoPanel } from "./panel.mjs";
import { makePhotoNetwork } from "./networks.mjs";
import { FILES, savedAs } from "./saving.mjs";

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
  const { budgets, pgd } = opening;
  const [first] = opening.networks;
  /** @type {import("./choices.mjs").PhotoSetting} */
  const setting = {
    network: first.name, image: null, attack: "fgsm", norm: "linf", stop: opening.stop,
    steps: STEPS.indexOf(pgd.steps), target: -1, levels: false,
  };
  const tell = { changed: draw, ready: compute, stopped };
  /** @type {Object<string, import("./networks.mjs").Network>} */
  const networks = Object.fromEntries(opening.networks.map((one) => {
    return [one.name, makePhotoNetwork(one, { folder, engineScope }, tell)];
  }));
  const results = new Map();
  const shown = { note: "", failure: "" };
  const panel = makePhotoPanel(setting, opening, folder, {
    change, choose, upload, save,
    load: () => network().load(),
    cancel: () => network().cancel(),
    share: [copyLink(PHOTO_LAB, state), downloadFigure(() => panel.figure())],
  });
  const linked = stateOfAddress(PHOTO_LAB) ?? {};
  let names = [];
  /** The image that was chosen last, which may still be on its way. */
  let chosen = null;
  /** What the network works on: the key of a setting, or an image to classify. */
  let asked = null;
  let ask = 0;
  /** The attack on its way. */
  let path = null;
  /** The key of a stored answer on its way. */
  let coming = null;
  /** The files of one result. */
  let saved = { key: "", files: NO_FILES };
  let scheduled = false;

  function draw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      const result = present(setting.stop);
      const losses = iterated(setting.attack) ? [] : budgets.linf.map((_, stop) => present(stop)?.losses.at(-1));
      const mine = key(setting.stop);
      const files = saved.key === mine ? saved.files : NO_FILES;
      const waits = result || asked !== mine;
      panel.draw({
        ...shown, network: network(), clean: clean(), goal: goal(), result, losses, files,
        failure: shown.failure || network().failure,
        coming: coming === mine, path: waits ? null : path, reached: reached(result?.rows),
      });
    });
  }

  const network = () => networks[setting.network];

  const clean = () => setting.image?.clean[setting.network];

  /** Whether what the network predicts is what the attack aims at. */
  function reached(rows) {
    return Boolean(rows) && (rows[0][0] === goal()) === (setting.attack === "targeted");
  }

  /** The class whose loss is raised or, targeted, lowered; none before that of the image is known. */
  const goal = () => (setting.attack === "targeted" ? setting.target : clean()?.rows[0][0]);

  /** In whole levels a budget between two of them is worth the lower one. */
  function worth(stop) {
    const stops = budgets.linf;
    return setting.levels && setting.norm === "linf" ? stops.indexOf(Math.floor(stops[stop])) : stop;
  }

  function key(stop) {
    const { network: by, image, attack, norm, steps, levels } = setting;
    if (!clean()) return "";
    return [by, image.name, attack, norm, worth(stop), iterated(attack) ? steps : "", goal(), levels].join();
  }

  /** What is known at the present setting, with another epsilon. */
  function present(stop) {
    const { attack, norm } = setting;
    if (!clean()) return null;
    if (worth(stop) === 0) return { ...clean(), losses: attack === "targeted" ? [] : clean().losses };
    return results.get(key(stop)) ?? stored(attack, norm, worth(stop));
  }

  /** Noise and FGSM in L-infinity end on whole levels by themselves, where epsilon is one. */
  function stored(attack, norm, stop) {
    return norm === "linf" && network() === networks[first.name] ? setting.image.stored(attack, stop) : null;
  }

  /** Asks the network for what is missing. */
  function compute() {
    const { image } = setting;
    if (!image) return;
    if (!network().engine) bringPgd();
    else if (!clean()) classify(image);
    else if (!present(setting.stop)) attack(image, key(setting.stop));
  }

  /** Before there is a network: PGD's answer for a shipped photograph, as far as it is stored. */
  async function bringPgd() {
    const { network: by, image, attack: kind, norm, steps, stop, levels } = setting;
    const has = by === first.name && kind === "pgd" && norm === "linf" && STEPS[steps] === pgd.steps;
    if (!has || levels || image.own || !pgd.stops.includes(stop) || present(stop)) return;
    const mine = (coming = key(stop));
    try {
      keep(mine, await loadPgd(folder, version, image, stop, budgets.linf[stop]));
    } catch {
      // then it needs the network, as other attacks do
    }
    if (coming === mine) coming = null;
    draw();
  }

  function attack(image, mine) {
    if (asked === mine) return;
    const { attack: kind, norm, stop, steps, levels } = setting;
    const y = goal();
    const eps = PHOTO_NORMS[norm].eps(budgets[norm][stop]);
    const task = { place: 0, attack: kind, norm, eps, steps: STEPS[steps], y, levels, watched: true };
    const losses = [];
    path = { ...clean(), losses }; // it begins at the photograph
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
    const by = setting.network;
    look(image, image.pixels, -1, (found) => {
      image.clean[by] = found;
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
    const { engine } = network();
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
    const { image, attack, norm, stop, steps, target, levels } = setting;
    const all = { attack, norm, eps: PHOTO_NORMS[norm].text(budgets[norm][stop]) };
    if (setting.network !== first.name) all.network = setting.network;
    if (levels) all.levels = "whole";
    if (image && !image.own) all.image = image.name;
    if (iterated(attack)) all.steps = STEPS[steps];
    if (attack === "targeted") all.target = names[target];
    return all;
  }

  /** Takes over what a link says, as far as it says something. */
  function take(linked) {
    setting.network = networks[linked.network]?.name ?? first.name;
    setting.levels = linked.levels === "whole";
    const attacks = ATTACKS.map(([attack]) => attack), norms = Object.keys(PHOTO_NORMS);
    setting.attack = attacks[placeOf(attacks, linked.attack, attacks.indexOf(setting.attack))];
    setting.norm = norms[placeOf(norms, linked.norm, norms.indexOf(setting.norm))];
    const stops = budgets[setting.norm].map((value) => PHOTO_NORMS[setting.norm].text(value));
    setting.stop = placeOf(stops, linked.eps, setting.stop);
    setting.steps = placeOf(STEPS.map(String), linked.steps, setting.steps);
  }

  function change(what) {
    if (what.network) leave();
    Object.assign(setting, what);
    draw();
    compute();
    if (what.network) network().wake();
  }

  /** The network that was chosen so far gives up what it works on. */
  function leave() {
    network().engine?.send({ ask: (ask += 1), x: null, tasks: [], wanted: 0 }, () => {});
    asked = path = null;
  }

  function show(image, note) {
    shown.note = note;
    change({ image });
  }

  /** Shows an image as soon as it is there, unless another one has been chosen by then. */
  async function bring(photograph, failed) {
    const mine = (chosen = {});
    shown.failure = "";
    try {
      const [classes, { image, note }] = await Promise.all([loadClasses(folder, version), photograph]);
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
    const photograph = loadPhotograph(folder, version, name, budgets.linf, first.name);
    return bring(photograph.then((image) => ({ image, note: "" })), (error) => {
      shown.failure = `This photograph could not be loaded. ${reasonOf(error)} Choose it again to try again.`;
    });
  }

  function upload(file) {
    const named = `own ${(ask += 1)}`;
    const read = readUpload(file, PHOTO_SIDE).then(({ pixels, note }) => {
      return { image: { name: named, own: true, pixels, clean: {}, stored: () => null }, note };
    });
    return bring(read, (error) => {
      shown.note = error instanceof UploadError ? error.message : reasonOf(error);
    });
  }

  /** A network has stopped: the reader may load it again. */
  function stopped() {
    asked = path = null;
  }

  take(linked);
  root.replaceChildren(panel.element);
  draw();
  followAddress(PHOTO_LAB, root);
  watchForFiles(root, upload);
  const titles = opening.photographs.map(([title]) => title);
  const title = titles[placeOf(titles, linked.image, titles.indexOf(opening.image))];
  whenLookedAt(root, () => {
    if (!chosen) choose(title);
    network().wake();
  });
}
