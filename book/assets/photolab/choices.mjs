// What the reader can choose in the Photo Lab, beside what the Live Lab's settings.mjs has.

/** Photographs are square and have this many pixels a side. */
export const PHOTO_SIDE = 224;

export const ABOUT_PHOTO = {
  noise: "Random noise: every value moves by ε, up or down. Made without the network.",
  fgsm: "One step of size ε along the gradient of the loss.",
  pgd: "Many small steps along the gradient, each projected back to within ε of the photograph.",
  targeted: "Many small steps towards the class you choose, never further than ε.",
};

/** The norms; photo_lab.py has the values of epsilon. */
export const PHOTO_NORMS = {
  linf: { name: "L∞", eps: (value) => value / 255, text: (value) => `${value}/255`, axis: "ε in 255ths" },
  l2: { name: "L2", eps: (value) => value, text: String, axis: "ε" },
};

/** The target that is one click away. */
export const FAVOURITE = "gibbon";

/**
 * What the lab is set to.
 * @typedef {object} PhotoSetting
 * @property {string} network  name
 * @property {?import("./answers.mjs").Photograph} image
 * @property {string} attack
 * @property {"linf" | "l2"} norm
 * @property {number} stop  of the slider
 * @property {number} steps  place in STEPS
 * @property {number} target  class that a targeted attack aims at
 * @property {boolean} levels  whether the attacked image has whole levels, as a file of 8 bits
 */
