// "Download figure": what a lab shows as one PNG, images side by side with a text below each.

import { h, write } from "./view.mjs";

/** Each image has this many pixels a side; letters are large enough for a column of print. */
const IMAGE = 448, GAP = 32, LETTERS = 26, LINE = 36;

/** Draws a figure, black on white. */
function drawFigure({ title, rows }) {
  const columns = rows[0].length;
  const high = IMAGE + GAP + LINE * Math.max(...rows.flat().map(({ lines }) => lines.length));
  const canvas = h("canvas", { width: GAP + columns * (IMAGE + GAP), height: 2 * GAP + LINE + rows.length * high });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#000";
  context.imageSmoothingEnabled = false;
  context.font = `${LETTERS}px sans-serif`;
  context.fillText(title, GAP, GAP + LETTERS, canvas.width - 2 * GAP);
  rows.forEach((row, r) => row.forEach(({ canvas: image, lines }, c) => {
    const x = GAP + c * (IMAGE + GAP), y = GAP + 2 * LINE + r * high;
    context.drawImage(image, x, y, IMAGE, IMAGE);
    lines.forEach((line, i) => context.fillText(line, x, y + IMAGE + (i + 1) * LINE, IMAGE));
  }));
  return canvas;
}

/**
 * The button that hands out what is shown.
 * @param {() => ?{title: string, rows: {canvas: HTMLCanvasElement, lines: string[]}[][]}} figure
 */
export function downloadFigure(figure) {
  const said = h("span", { class: "advlib-note", role: "status" });
  const save = () => {
    const made = figure();
    write(said, made ? "" : "There is no result to draw yet.");
    if (!made) return;
    drawFigure(made).toBlob((blob) => {
      const href = URL.createObjectURL(blob);
      h("a", { href, download: `${made.title.replaceAll(/[^a-z0-9]+/gi, "-")}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(href));
    }, "image/png");
  };
  return h("p", { class: "lab-link" }, h("button", { type: "button", onclick: save }, "Download figure"), said);
}
