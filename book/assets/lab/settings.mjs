// What the reader can choose, with names and texts.

/** Images are square and have this many pixels a side. */
export const SIDE = 64;

/** The networks of the weights file, as the page calls them. */
export const NAMES = { standard: "Standard network", robust: "Robust network" };

export const ATTACKS = [
  ["noise", "Noise"], ["fgsm", "FGSM"], ["pgd", "PGD"], ["targeted", "Targeted PGD"],
];

/** An attack in a figure's title. */
export function attackTitle(attack, target, norm, eps) {
  const [, name] = ATTACKS.find(([one]) => one === attack);
  return `${name}${attack === "targeted" ? ` (${target})` : ""}, ${norm.name}, ε = ${eps}`;
}

export const ABOUT = {
  noise: "Random noise, made without the networks. Both get the same noise.",
  fgsm: "One step of size ε along the gradient of the loss, for each network its own.",
  pgd: "Many small steps along the gradient, each projected back to within ε of the image.",
  targeted: "Many small steps towards the class you choose, never further than ε.",
};

/** How much the shown change is magnified. */
export const FACTOR = 10;

/** The slider has as many stops in each norm; lab.py has those of L∞, too: a test compares. */
export const STOPS = 13;

/** The budget at each stop of the slider. */
export const NORMS = {
  linf: { name: "L∞", eps: (stop) => stop / 255, text: (stop) => `${stop}/255`, axis: "ε in 255ths" },
  l2: { name: "L2", eps: (stop) => stop / 4, text: (stop) => (stop / 4).toFixed(2), axis: "ε in quarters" },
};

export const STEPS = [1, 2, 5, 10, 20, 40];

/** Whether an attack goes step by step. */
export const iterated = (attack) => attack === "pgd" || attack === "targeted";

/**
 * What the lab is set to.
 * @typedef {object} Setting
 * @property {{name: string | number, pixels: Uint8Array, y: number, own?: boolean}} image
 *   y is its true class; a stored image's name is its place, `own` ones come from the reader
 * @property {string} attack
 * @property {"linf" | "l2"} norm
 * @property {number} stop  of the slider
 * @property {number} steps  place in STEPS
 * @property {number} target  class that a targeted attack aims at
 */
