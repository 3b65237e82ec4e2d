// What the network makes of images: what it has said when the book was built, and what it says now.

import { base64Bytes, loadScript, notWhole, once } from "../lab/files.mjs";
import { mostProbable } from "../lab/view.mjs";
import { PHOTO_SIDE } from "./choices.mjs";

const CLASSES_SHOWN = 5;
const VALUES = PHOTO_SIDE * PHOTO_SIDE * 3;
/** Where the letters of the stored changes begin, behind the quotation mark. */
const FIRST_LETTER = 35;

/**
 * An image and what the network makes of it.
 * @typedef {object} Result
 * @property {Float32Array | Float64Array} image  values from 0 to 1
 * @property {[number, number][]} rows  the most probable classes with their probabilities
 * @property {number[]} losses  at the photograph itself and at every point of the attack's path
 */

/**
 * A photograph to attack.
 * @typedef {object} Photograph
 * @property {string} name
 * @property {Uint8Array} pixels
 * @property {boolean} [own]  whether it is the reader's own
 * @property {Object<string, Result>} clean  what each network makes of it, as soon as that is known
 * @property {(attack: string, stop: number) => ?Result} stored  noise and FGSM in L-infinity
 */

/** What is shown of what an attack found; class `y` is shown in any case. */
export function resultOf({ image, probabilities, losses }, y) {
  const rows = mostProbable(probabilities, CLASSES_SHOWN, y).map((i) => [i, probabilities[i]]);
  return { image, rows, losses };
}

/** Bytes as pixel values from 0 to 1. */
export const toUnit = (pixels) => Float64Array.from(pixels, (value) => value / 255);

/** One sign for each bit, or null if there is another number of them. */
function signsOf(base64) {
  const bytes = base64Bytes(base64);
  if (8 * bytes.length !== VALUES) return null;
  return Int8Array.from({ length: VALUES }, (_, i) => ((bytes[i >> 3] >> (7 - (i & 7))) & 1 ? 1 : -1));
}

/** The names of the classes, and the signs of the noise. */
export function loadClasses(folder, version) {
  return once("photo classes", async () => {
    const { names, noise } = await loadScript(folder, version, "classes");
    return whole("classes", () => ({ names: names.map(String), noise: signsOf(noise) }));
  });
}

/**
 * One of the shipped photographs with its stored answers; photo_lab.py says how they came about.
 * @param {number[]} stops  of the slider in L-infinity, in 255ths
 * @param {string} network  whose answers are stored
 * @returns {Promise<Photograph>}
 */
export function loadPhotograph(folder, version, name, stops, network) {
  return once(`photo ${name}`, async () => {
    const [{ noise }, file] = await Promise.all([
      loadClasses(folder, version), loadScript(folder, version, name),
    ]);
    return whole(name, () => unfoldPhotograph(name, file, noise, stops, network));
  });
}

function unfoldPhotograph(name, file, noise, stops, network) {
  const pixels = base64Bytes(file.pixels);
  if (pixels.length !== VALUES) return null;
  const signs = { noise, fgsm: signsOf(file.fgsm) };
  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const stored = (attack, stop) => {
    const answer = file.answers[attack]?.[stop];
    if (!answer) return null;
    const moved = (value, i) => clip((value + stops[stop] * signs[attack][i]) / 255);
    return {
      get image() { // only of the one that is shown
        return Float32Array.from(pixels, moved);
      },
      rows: answer.rows,
      losses: [file.answers[attack][0].loss, answer.loss],
    };
  };
  const { rows, losses } = stored("fgsm", 0);
  const clean = { [network]: { image: toUnit(pixels), rows, losses: losses.slice(1) } };
  return signs.fgsm && { name, pixels, clean, stored };
}

/** How many levels a step of the stored PGD has to either side of no change; photo_lab.py has the same. */
const QUARTERS = 4;

/**
 * The stored answer of PGD at one stop: the change of each value in quarters of epsilon, two in a letter.
 * @param {Photograph} photograph
 * @param {number} eps  in 255ths
 * @returns {Promise<Result>}
 */
export function loadPgd(folder, version, { name, pixels }, stop, eps) {
  const file = `${name}_pgd_${stop}`;
  return once(`photo ${file}`, async () => {
    const { change, rows, losses } = await loadScript(folder, version, file);
    return whole(name, () => {
      if (2 * change.length !== VALUES) return null;
      const side = 2 * QUARTERS + 1;
      const quarters = (i) => {
        const both = change.charCodeAt(i >> 1) - FIRST_LETTER;
        return (i & 1 ? both % side : Math.floor(both / side)) - QUARTERS;
      };
      const image = Float32Array.from(pixels, (value, i) => {
        return Math.min(Math.max(value + (eps * quarters(i)) / QUARTERS, 0), 255) / 255;
      });
      return { image, rows, losses };
    });
  });
}

/** What `read` makes of a file; anything but a value means that the file is not as it was written. */
function whole(name, read) {
  let value = null;
  try {
    value = read();
  } catch {
    // as below
  }
  if (!value || Object.values(value).includes(null)) throw notWhole(name);
  return value;
}
