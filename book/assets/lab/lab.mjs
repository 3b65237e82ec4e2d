// The Live Lab: the reader's choices on one side, both networks on the other.
//
// What was computed is kept, for every epsilon of the slider. So a dragged slider only draws, and
// the engines work ahead from where it stands. Before the networks are loaded, the lab shows one
// stored result, for all epsilons. It stays with that result if they cannot be loaded.

import { ATTACKS, NAMES, NORMS, SIDE, STEPS, STOPS, iterated } from "./settings.mjs";
import { copyLink, followAddress, placeOf, stateOfAddress } from "./address.mjs";
import { UploadError, readUpload, watchForFiles } from "./upload.mjs";
import { base64Bytes, reasonOf } from "./files.mjs";
import { loadEngines, loadImages } from "./load.mjs";
import { h, whenLookedAt } from "./view.mjs";
import { makePanel } from "./panel.mjs";
import { makeBrush } from "./brush.mjs";
import { makeRound } from "./round.mjs";
import { downloadFigure } from "./figure.mjs";

/** How many settings keep their results. */
const KEPT = 12;

/** The lab's name in the page's address. */
const LIVE_LAB = "live-lab";

/** What is drawn into an element of this class. */
const KINDS = { "advlib-livelab": makeLab, "advlib-brush": makeBrush };

/**
 * Starts every lab of the page that does not run yet.
 * @param {function} engineScope  what a Worker runs
 * @param {object} progress  what the browser keeps (advlib/widgets/progress.js)
 */
export function start(engineScope, progress) {
  const roots = document.querySelectorAll(".advlib-lab[data-folder]:not([data-started])");
  for (const root of roots) {
    const make = KINDS[Object.keys(KINDS).find((kind) => root.classList.contains(kind))];
    if (!make) continue; // a lab of another script
    root.dataset.started = "";
    try {
      const stored = root.querySelector('script[type="application/json"]');
      make(root, JSON.parse(stored.textContent), engineScope, progress);
    } catch (error) {
      root.replaceChildren(h("p", {}, "The lab could not be drawn in this browser."));
      console.warn(error);
    }
  }
}

function makeLab(root, opening, engineScope, progress) {
  const { folder, version } = root.dataset;
  const { classes, variants } = opening;
  const other = (y) => (y + 5) % classes.length;
  /** @type {import("./settings.mjs").Setting} */
  const setting = {
    image: { name: opening.image, pixels: base64Bytes(opening.pixels), y: opening.y },
    attack: "fgsm",
    norm: "linf",
    stop: opening.eps,
    steps: STEPS.indexOf(10),
    target: other(opening.y),
  };
  const results = makeResults(setting);
  results.store(unfold(opening, setting.image.pixels));
  const linked = stateOfAddress(LIVE_LAB) ?? {};
  takeLink(setting, linked, classes);
  const panel = makePanel(setting, opening, { change, choose, upload, retry: load });
  /** The reader's own image, from the choice of its file until the standard network has classified it. */
  let pending = null;
  let engines = null;
  let loading = null;
  let scheduled = false;
  /** What the engines work on: a setting's key, or the reader's image. */
  let asked = null;
  let ask = 0;

  /** Draws before the browser shows its next frame, once, however much has happened. */
  function draw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      panel.draw(results.present());
    });
  }

  /** Asks the engines for what is missing. An image that waits for its class comes first. */
  function compute() {
    const waits = pending?.pixels;
    if (!waits && results.complete()) return;
    if (!engines) load();
    else if (waits) classify(pending);
    else fillIn();
  }

  /** Whether the engines work on `what` already; if not, a new ask begins. */
  function alreadyAsked(what) {
    if (asked === what) return true;
    asked = what;
    ask += 1;
    return false;
  }

  /** Asks for all that is missing at this setting, the present epsilon first. */
  function fillIn() {
    const kept = results.present();
    const same = alreadyAsked(results.key());
    for (const [name, engine] of Object.entries(engines)) {
      if (same) {
        engine.send({ ask, wanted: setting.stop });
        continue;
      }
      const message = { ask, x: pixelsToUnit(setting.image.pixels), wanted: setting.stop };
      engine.send({ ...message, tasks: tasks(kept[name]) }, (stop, found) => {
        kept[name][stop] = found;
        draw();
      });
    }
  }

  function tasks(kept) {
    const { attack, norm } = setting;
    const common = { attack, norm, steps: STEPS[setting.steps], y: results.driven() };
    const all = Array.from({ length: STOPS }, (_, stop) => ({
      ...common, place: stop, eps: NORMS[norm].eps(stop),
    }));
    return all.filter(({ place }) => !kept[place]);
  }

  function change(what) {
    Object.assign(setting, what);
    draw();
    compute();
  }

  function choose(name, pixels) {
    pending = null;
    panel.note("");
    const y = Math.floor(name / variants);
    change({ image: { name, pixels, y }, target: setting.target === y ? other(y) : setting.target });
  }

  /** Decodes the reader's image. A choice made meanwhile counts, and this one is dropped. */
  async function upload(file) {
    const mine = (pending = {});
    try {
      const image = await readUpload(file, SIDE);
      if (pending !== mine) return;
      Object.assign(mine, image);
      panel.note("Your image waits for the networks.");
      compute();
    } catch (error) {
      if (pending !== mine) return;
      pending = null;
      if (!(error instanceof UploadError)) console.warn(error);
      panel.note(error instanceof UploadError ? error.message : "This file could not be read as an image.");
    }
    draw();
  }

  /** Asks the standard network for the class of the reader's image. */
  function classify(own) {
    if (alreadyAsked(own)) return;
    const task = { place: 0, attack: "noise", norm: "linf", eps: 0, steps: 1, y: 0 };
    const message = { ask, x: pixelsToUnit(own.pixels), tasks: [task], wanted: 0 };
    engines.standard.send(message, (_, { probabilities }) => {
      if (pending === own) show(own, probabilities.indexOf(Math.max(...probabilities)));
    });
  }

  function show({ pixels, note }, y) {
    pending = null;
    panel.note(`${note} The standard network predicts ${classes[y]}. If that is wrong, choose the true class.`.trim());
    panel.forget();
    const target = setting.target === y ? other(y) : setting.target;
    change({ image: { name: `own ${ask}`, pixels, y, own: true }, target });
  }

  /** Fetches images and networks; after a failure the next call tries again. */
  function load() {
    loading ??= fetchAll().finally(() => {
      if (!engines) loading = null;
    });
    return loading;
  }

  async function fetchAll() {
    panel.loading(true);
    panel.failed("");
    draw();
    try {
      panel.showImages(await loadImages(folder, version, classes.length * variants));
      panel.pick(placeOf(imageNames(classes, variants), linked.image, -1));
      linked.image = null;
      engines = await loadEngines(folder, version, engineScope, stopped);
      compute();
    } catch (error) {
      panel.failed(`The networks could not be loaded, so the lab shows only its stored result. ${reasonOf(error)}`);
    }
    panel.loading(false);
    draw();
  }

  /** The engines have stopped: they begin anew when the reader says so or asks for more. */
  function stopped(reason) {
    engines = loading = asked = null;
    panel.failed(`A network stopped computing (${reason}); what was computed is kept.`);
    draw();
  }

  const place = [...document.querySelectorAll(".advlib-livelab")].indexOf(root);
  const key = place ? `round-${place + 1}` : "round"; // each lab of a page keeps its own scores
  const round = makeRound(classes, variants, key, { folder, version, engineScope, progress });
  const link = copyLink(LIVE_LAB, () => linkedState(setting, classes, variants));
  const share = h("div", { class: "lab-share" }, link, downloadFigure(panel.figure));
  root.replaceChildren(panel.element, share, round);
  panel.draw(results.present());
  followAddress(LIVE_LAB, root);
  watchForFiles(root, upload);
  whenLookedAt(root, load);
}

/** What the stored images are called in a link: "stop 1", "stop 2", ... */
function imageNames(classes, variants) {
  return Array.from({ length: classes.length * variants }, (_, place) => {
    return `${classes[Math.floor(place / variants)]} ${1 + (place % variants)}`;
  });
}

const epsNames = (norm) => Array.from({ length: STOPS }, (_, stop) => NORMS[norm].text(stop));

/** The present setting, for a link; an image of the reader's own is not in it. */
function linkedState({ image, attack, norm, stop, steps, target }, classes, variants) {
  const state = { attack, norm, eps: epsNames(norm)[stop] };
  if (!image.own) state.image = imageNames(classes, variants)[image.name];
  if (iterated(attack)) state.steps = STEPS[steps];
  if (attack === "targeted") state.target = classes[target];
  return state;
}

/** Takes over what a link says, as far as it says something; its image comes when all are loaded. */
function takeLink(setting, linked, classes) {
  const attacks = ATTACKS.map(([attack]) => attack), norms = Object.keys(NORMS);
  setting.attack = attacks[placeOf(attacks, linked.attack, attacks.indexOf(setting.attack))];
  setting.norm = norms[placeOf(norms, linked.norm, norms.indexOf(setting.norm))];
  setting.stop = placeOf(epsNames(setting.norm), linked.eps, setting.stop);
  setting.steps = placeOf(STEPS.map(String), linked.steps, setting.steps);
  setting.target = placeOf(classes, linked.target, setting.target);
}

const pixelsToUnit = (pixels) => Float64Array.from(pixels, (value) => value / 255);

/**
 * The results that were computed, by setting: for each network one for each stop of the slider.
 * @param {import("./settings.mjs").Setting} setting
 */
function makeResults(setting) {
  const all = new Map();
  const driven = () => (setting.attack === "targeted" ? setting.target : setting.image.y);
  const key = () => {
    const { image, attack, norm, steps } = setting;
    return [image.name, attack, norm, iterated(attack) ? steps : "", driven()].join();
  };
  const store = (kept) => {
    all.delete(key()); // and back in: the newest is the last
    all.set(key(), kept);
    if (all.size > KEPT) all.delete(all.keys().next().value);
    return kept;
  };
  const present = () => {
    return store(all.get(key()) ?? Object.fromEntries(Object.keys(NAMES).map((name) => [name, []])));
  };
  const complete = () => Object.values(present()).every((list) => list.filter(Boolean).length === STOPS);
  return { key, driven, store, present, complete };
}

/**
 * The opening state. FGSM's direction is the same for every epsilon, so images follow from it
 * exactly; the outputs of the networks are stored.
 */
function unfold({ networks }, pixels) {
  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const results = (stored) => {
    const sign = new Int8Array(base64Bytes(stored.direction).buffer);
    return stored.probabilities.map((probabilities, stop) => ({
      image: Float32Array.from(pixels, (value, i) => clip((value + stop * sign[i]) / 255)),
      probabilities,
      losses: stop ? [stored.losses[0], stored.losses[stop]] : [stored.losses[0]],
    }));
  };
  return Object.fromEntries(Object.entries(networks).map(([name, stored]) => [name, results(stored)]));
}
