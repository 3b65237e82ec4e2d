// Does an attack survive saving? Files of 8 bits, and what the network makes of exactly their pixels.

import { UploadError, readUpload } from "../lab/upload.mjs";
import { h, percent, screen, write } from "../lab/view.mjs";
import { PHOTO_SIDE } from "./choices.mjs";

/** Name, kind and quality of the files. */
export const FILES = [
  ["PNG", "image/png"], ["JPEG 90", "image/jpeg", 0.9], ["JPEG 75", "image/jpeg", 0.75], ["JPEG 50", "image/jpeg", 0.5],
];

/**
 * An image as a file, and the pixels that a reader of the file finds.
 * @param {Float32Array | Float64Array} image  values from 0 to 1
 * @returns {Promise<{blob: Blob, pixels: Uint8Array}>}
 */
export async function savedAs(image, kind, quality) {
  const { canvas, paint } = screen(PHOTO_SIDE, "");
  paint((i) => 255 * image[i]);
  const blob = await new Promise((go) => canvas.toBlob(go, kind, quality));
  if (blob?.type !== kind) throw new UploadError("This browser does not write such a file.");
  const { pixels } = await readUpload(blob, PHOTO_SIDE);
  return { blob, pixels };
}

/**
 * Whether an attack has reached its goal, before and after, in a sentence.
 * @param {boolean} before
 * @param {boolean} after
 */
function survival(before, after) {
  if (before) return after ? "The attack survived." : "The attack did not survive.";
  return after ? "Only saving changed the prediction." : "There was no success to survive.";
}

/**
 * What became of a file.
 * @typedef {object} SavedFile
 * @property {string} name  PNG, JPEG 90, ...
 * @property {?Blob} blob
 * @property {[number, number][]} rows  the most probable classes with their probabilities
 * @property {boolean} reached  whether what the network predicts is still the attack's goal
 * @property {string} [problem]  why there is no file
 */

/** The part of the page that saves; `save` is called for a click. */
export function makeSaving(save) {
  const button = h("button", { type: "button", class: "advlib-button", onclick: save }, "Save and classify again");
  const need = h("span", { class: "advlib-note" }, "This needs the network.");
  const list = h("ul", { "aria-live": "polite", "aria-label": "Saved files" });
  const about = h("p", { class: "advlib-note" });
  const element = h("section", { class: "photo-saving", "aria-label": "Does it survive saving?" },
    h("p", { class: "advlib-label" }, "Does it survive saving?"),
    about,
    h("p", { class: "photo-save" }, button, need), list);
  let drawn = null;
  let addresses = [];

  function item({ name, blob, rows, reached, problem }, names, title, before) {
    if (problem) return h("li", {}, `${name}: ${problem}`);
    const address = URL.createObjectURL(blob);
    addresses.push(address);
    const file = `${title} ${name}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
    const link = h("a", { href: address, download: `${file}.${name === "PNG" ? "png" : "jpg"}` }, name);
    const [[first, share]] = rows;
    return h("li", {}, link, `: predicts ${names[first]}, ${percent(share)}. ${survival(before, reached)}`);
  }

  return {
    element,
    /** @param {object} shown  names of the classes, title, levels, and what panel.mjs has of `Shown` */
    update({ files, names, title, reached, result, network, levels }) {
      const ready = result && network.state === "ready";
      button.disabled = !ready;
      need.hidden = network.state === "ready";
      write(about, `A file holds 256 levels of each colour, and JPEG not even those. ${levels
        ? "This image has whole levels, so a PNG keeps it as it is."
        : "The network classifies exactly the pixels of the file."}`);
      if (files === drawn) return;
      drawn = files;
      for (const address of addresses) URL.revokeObjectURL(address);
      addresses = [];
      list.replaceChildren(...files.map((one) => item(one, names, title, reached)));
    },
  };
}
