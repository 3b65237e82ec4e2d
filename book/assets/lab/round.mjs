// You against the network: both read the same changed signs, and the page counts who errs more.

import { loadEngines, loadPictures } from "./load.mjs";
import { SIDE } from "./settings.mjs";
import { h, screen } from "./view.mjs";

const SIGNS = 20;
const OPTIONS = 4;
const ATTACK = { place: 0, attack: "pgd", norm: "linf", eps: 8 / 255, steps: 10 };
const INTRO =
  `${SIGNS} signs, each changed by PGD within 8/255 against the standard network. ` +
  "What does each one show? The network reads the same pictures. Guess first: who errs more?";

/**
 * @param {string[]} classes
 * @param {number} variants  stored pictures of each class
 * @param {{folder: string, version: string, engineScope: function}} source
 */
export function makeRound(classes, variants, { folder, version, engineScope }) {
  const picture = screen(SIDE, "A changed sign: what does it show?");
  const options = Array.from({ length: OPTIONS }, (_, i) => {
    return h("button", { type: "button", class: "lab-option", onclick: () => answer(i) });
  });
  const progress = h("p", { class: "advlib-label" });
  const said = h("p", { class: "lab-said", role: "status" });
  const begin = h("button", { type: "button", class: "advlib-button", onclick: start }, "Begin");
  const table = h(
    "div",
    { class: "lab-table", hidden: true },
    h("div", {}, progress, picture.canvas),
    h("div", { role: "group", "aria-label": "What does it show?", class: "lab-options" }, options),
  );
  const element = h(
    "details",
    { class: "lab-round" },
    h("summary", {}, "You against the network"),
    h("p", {}, INTRO), begin, table, said,
  );
  let engine = null;
  let asks = 0;
  let round = null;

  async function start() {
    begin.disabled = true;
    said.textContent = "One moment …";
    try {
      const all = await loadPictures(folder, version);
      engine ??= (await loadEngines(folder, version, engineScope, ["standard"])).standard;
      const order = shuffled(Array.from({ length: classes.length * variants }, (_, i) => i));
      round = { left: order.slice(0, SIGNS).map((place) => attack(all, place)), yours: 0, its: 0 };
      await next();
      begin.hidden = true;
      table.hidden = false;
      said.textContent = "";
    } catch {
      said.textContent = "The network could not be loaded, so this round cannot be played now.";
    }
    begin.disabled = false;
  }

  /** A changed picture and what the network reads in it, as a function that is called in its turn. */
  function attack(all, place) {
    const length = SIDE * SIDE * 3;
    const x = Float64Array.from(all.subarray(place * length, (place + 1) * length), (v) => v / 255);
    const y = Math.floor(place / variants);
    return () => new Promise((resolve) => {
      asks += 1;
      engine.send({ ask: asks, x, tasks: [{ ...ATTACK, y }], wanted: 0 }, (_, found) => {
        resolve({ y, picture: found.picture, read: largest(found.probabilities) });
      });
    });
  }

  async function next() {
    // The one that follows is computed while the reader looks at this one.
    round.now = await (round.coming ?? round.left.shift()());
    round.coming = round.left.length ? round.left.shift()() : null;
    const { y, read } = round.now;
    const others = shuffled(classes.map((_, i) => i).filter((i) => i !== y && i !== read));
    round.options = shuffled([...new Set([y, read]), ...others].slice(0, OPTIONS));
    options.forEach((option, i) => (option.textContent = classes[round.options[i]]));
    picture.paint((i) => 255 * round.now.picture[i]);
    round.number = (round.number ?? 0) + 1;
    progress.textContent = `Sign ${round.number} of ${SIGNS}`;
  }

  async function answer(chosen) {
    if (!round?.now) return; // the next one is not there yet
    const { y, read } = round.now;
    const guess = round.options[chosen];
    round.now = null;
    round.yours += guess !== y;
    round.its += read !== y;
    const one = `Sign ${round.number} was ${classes[y]}. You: ${classes[guess]}. The network: ${classes[read]}.`;
    said.textContent = one;
    if (round.coming) {
      await next();
      return;
    }
    table.hidden = true;
    begin.hidden = false;
    begin.textContent = "Play again";
    said.textContent =
      `${one} You erred on ${round.yours} of ${SIGNS}, the standard network on ${round.its}.`;
    begin.focus();
  }

  return element;
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
