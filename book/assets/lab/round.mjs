// You against the network: both classify the same attacked signs, and the page counts the errors.

import { reasonOf } from "./files.mjs";
import { loadEngines, loadImages } from "./load.mjs";
import { SIDE } from "./settings.mjs";
import { h, screen } from "./view.mjs";

const SIGNS = 20;
const OPTIONS = 4;
const ATTACK = { place: 0, attack: "pgd", norm: "linf", eps: 8 / 255, steps: 10 };
const INTRO =
  `${SIGNS} signs, each changed by PGD within 8/255 against the standard network. ` +
  "What does each one show? The network classifies the same images. Guess first: who makes more errors?";

/**
 * @param {string[]} classes
 * @param {number} variants  stored images of each class
 * @param {string} key  under which the scores are kept
 * @param {{folder: string, version: string, engineScope: function, progress: object}} source
 */
export function makeRound(classes, variants, key, { folder, version, engineScope, progress }) {
  const images = classes.length * variants;
  const scores = makeScores(key, images, progress);
  const image = screen(SIDE, "A changed sign: what does it show?");
  const options = Array.from({ length: OPTIONS }, (_, i) => {
    return h("button", { type: "button", class: "lab-option", onclick: () => answer(i) });
  });
  const counter = h("p", { class: "advlib-label" });
  const said = h("p", { class: "lab-said", role: "status" });
  const before = h("p", { class: "advlib-note" });
  const begin = h("button", { type: "button", class: "advlib-button", onclick: start });
  const table = h(
    "div",
    { class: "lab-table", hidden: true },
    h("div", {}, counter, image.canvas),
    h("div", { role: "group", "aria-label": "What does it show?", class: "lab-options" }, options),
  );
  const element = h(
    "details",
    { class: "lab-round" },
    h("summary", {}, "You against the network"),
    h("p", {}, INTRO), begin, table, said, before,
  );
  let engine = null;
  let asks = 0;
  let round = null;
  let starting = false;

  async function start() {
    if (starting) return; // the button is not disabled: it would lose the keyboard
    starting = true;
    said.textContent = "One moment …";
    try {
      const all = await loadImages(folder, version, images);
      const named = ["standard"];
      engine ??= (await loadEngines(folder, version, engineScope, stopped, named)).standard;
      const { places, errors } = scores.open() ?? { places: draw(), errors: [0, 0] };
      round = { left: places.map((place) => attack(all, place)), places, errors };
      await next();
      swap(begin, table, options[0]);
      said.textContent = "";
    } catch (error) {
      said.textContent = `This round cannot be played now. ${reasonOf(error)}`;
    }
    starting = false;
  }

  /** Puts one thing in the place of another; the keyboard goes along if it was there. */
  function swap(old, now, focused) {
    const here = old.contains(document.activeElement);
    old.hidden = true;
    now.hidden = false;
    if (here) focused.focus();
  }

  /** The images of a new round. */
  function draw() {
    return shuffled(Array.from({ length: images }, (_, i) => i)).slice(0, SIGNS);
  }

  /** The engine has stopped; the round goes on with the sign where it stands. */
  function stopped(reason) {
    engine = round = null;
    starting = false;
    pause(`The network stopped computing (${reason}); the round can go on where it stands.`);
  }

  /** An attacked image and the class that the network predicts, as a function to be called in its turn. */
  function attack(all, place) {
    const length = SIDE * SIDE * 3;
    const x = Float64Array.from(all.subarray(place * length, (place + 1) * length), (v) => v / 255);
    const y = Math.floor(place / variants);
    return () => new Promise((resolve) => {
      asks += 1;
      engine.send({ ask: asks, x, tasks: [{ ...ATTACK, y }], wanted: 0 }, (_, found) => {
        resolve({ y, image: found.image, predicted: largest(found.probabilities) });
      });
    });
  }

  async function next() {
    // The one that follows is computed while the reader looks at this one.
    const mine = round;
    const now = await (mine.coming ?? mine.left.shift()());
    mine.coming = mine.left.length ? mine.left.shift()() : null;
    const { y, predicted } = (mine.now = now);
    const others = shuffled(classes.map((_, i) => i).filter((i) => i !== y && i !== predicted));
    mine.options = shuffled([...new Set([y, predicted]), ...others].slice(0, OPTIONS));
    options.forEach((option, i) => (option.textContent = classes[mine.options[i]]));
    image.paint((i) => 255 * now.image[i]);
    counter.textContent = `Sign ${number()} of ${SIGNS}`;
  }

  /** Which sign is before the reader, from 1. */
  function number() {
    return SIGNS - round.places.length + 1;
  }

  async function answer(chosen) {
    if (!round?.now) return; // the next one is not there yet
    const { y, predicted } = round.now;
    const guess = round.options[chosen];
    const one = `Sign ${number()} was ${classes[y]}. You: ${classes[guess]}. The network: ${classes[predicted]}.`;
    round.now = null;
    round.places = round.places.slice(1);
    round.errors = [round.errors[0] + (guess !== y), round.errors[1] + (predicted !== y)];
    scores.keep(round);
    said.textContent = one;
    if (round.places.length) {
      await next();
      return;
    }
    const [yours, its] = round.errors;
    const result = `You made errors on ${yours} of ${SIGNS} signs, the standard network on ${its}.`;
    pause(`${one} ${result} ${whoErrs(yours, its)}`);
  }

  /** Puts the signs away and says why. */
  function pause(why) {
    swap(table, begin, begin);
    said.textContent = why;
    recall();
  }

  /** Shows what is kept of earlier rounds. */
  function recall() {
    const open = scores.open();
    const rounds = scores.finished();
    begin.textContent = "Begin";
    if (rounds.length) begin.textContent = "Play again";
    if (open) begin.textContent = `Go on with sign ${SIGNS - open.places.length + 1}`;
    const total = (who) => rounds.reduce((sum, errors) => sum + errors[who], 0);
    const played = rounds.length === 1 ? "the one round" : `the ${rounds.length} rounds`;
    before.hidden = rounds.length === 1 && round !== null; // it has just been said
    before.textContent = rounds.length
      ? `In ${played} that you finished: you made errors on ${total(0)} of ${SIGNS * rounds.length} signs, ` +
        `the standard network on ${total(1)}.`
      : "";
  }

  recall();
  progress.watch(scores.key, () => !round?.places.length && recall());
  return element;
}

/**
 * What this browser keeps of the rounds: the errors, the reader's and the network's, of each that is
 * finished, and one that is not. Anything else that it finds there is ignored.
 */
function makeScores(key, images, progress) {
  const isCount = (value, most) => Number.isInteger(value) && value >= 0 && value <= most;
  const isErrors = (value, most) => {
    return Array.isArray(value) && value.length === 2 && value.every((one) => isCount(one, most));
  };
  const kept = () => Object(progress.get(key));

  const finished = () => {
    const { rounds } = kept();
    return Array.isArray(rounds) ? rounds.filter((errors) => isErrors(errors, SIGNS)) : [];
  };
  const open = () => {
    const { places, errors } = kept();
    const whole = Array.isArray(places) && places.length > 0 && places.length < SIGNS
      && places.every((place) => isCount(place, images - 1))
      && isErrors(errors, SIGNS - places.length);
    return whole ? { places, errors } : null;
  };
  const keep = ({ places, errors }) => {
    const rounds = finished();
    progress.set(key, places.length ? { rounds, places, errors } : { rounds: [...rounds, errors] });
  };
  return { key, finished, open, keep };
}

/** The answer to the question before the round. */
function whoErrs(yours, its) {
  if (yours === its) return "You make equally many errors.";
  return yours > its ? "You make more errors." : "The network makes more errors.";
}

const largest = (values) => values.indexOf(Math.max(...values));

/** The same items in random order (Fisher and Yates). */
function shuffled(items) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}
