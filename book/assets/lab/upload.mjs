// The reader's own image: decoded and made small in the page. It goes nowhere else.

/** What is wrong with a file, in a sentence for the reader. */
export class UploadError extends Error {}

const MOST_BYTES = 60e6;
const MOST_PIXELS = 100e6;

/**
 * Reads a file as a square image.
 * @param {File} file
 * @param {number} side  width and height of the result
 * @returns {Promise<{pixels: Uint8Array, note: string}>}  red, green, blue of each pixel, row by row
 */
export async function readUpload(file, side) {
  if (file.size > MOST_BYTES) {
    throw new UploadError(
      `This file has ${Math.round(file.size / 1e6)} MB; the lab reads up to ${MOST_BYTES / 1e6} MB.`,
    );
  }
  const address = URL.createObjectURL(file);
  try {
    const image = await decode(address);
    const { naturalWidth: width, naturalHeight: height } = image;
    if (!width || !height) throw new UploadError("This image has no size of its own; try a PNG or JPEG.");
    if (width * height > MOST_PIXELS) {
      throw new UploadError(
        `This image has ${width} × ${height} pixels, too many to read here; make it smaller first.`,
      );
    }
    return shrink(image, width, height, side);
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** The lab of the page that is nearest to the middle of the window. */
function labInView() {
  const middle = innerHeight / 2;
  const away = (lab) => {
    const { top, bottom } = lab.getBoundingClientRect();
    return Math.max(top - middle, middle - bottom, 0);
  };
  return [...document.querySelectorAll(".advlib-lab")].reduce((a, b) => (away(b) < away(a) ? b : a));
}

/**
 * Takes a file that is dropped on the lab `element`, or pasted there; one that is pasted where nothing
 * has the keyboard is for the lab in view.
 */
export function watchForFiles(element, onfile) {
  const take = (event, transfer) => {
    const file = transfer?.files[0];
    if (!file) return;
    event.preventDefault();
    onfile(file);
  };
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", (event) => take(event, event.dataTransfer));
  document.addEventListener("paste", (event) => {
    const here = event.target === document.body ? labInView() : event.target;
    if (element.contains(here)) take(event, event.clipboardData);
  });
}

function decode(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new UploadError("This file could not be read as an image."));
    image.src = address;
  });
}

/** Cuts the middle square out and halves it until it is small: each pixel keeps its share. */
function shrink(image, width, height, side) {
  const square = Math.min(width, height);
  let size = side;
  while (size * 2 <= Math.min(square, 1024)) size *= 2;
  let canvas = draw(image, (width - square) / 2, (height - square) / 2, square, size);
  while (size > side) {
    canvas = draw(canvas, 0, 0, size, size / 2);
    size /= 2;
  }
  const clear = hasClear(canvas, side);
  const data = read(flatten(canvas, side), side);
  const pixels = new Uint8Array(side * side * 3);
  for (let i = 0; i < side * side; i++) {
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = data[4 * i + c];
  }
  const notes = [];
  if (width !== height) notes.push("its middle was cut out as a square");
  if (width !== side || height !== side) notes.push(`it was resized to ${side} × ${side} pixels`);
  if (clear) notes.push("what was transparent became white");
  const note = notes.join(", ");
  return { pixels, note: note && `${note[0].toUpperCase()}${note.slice(1)}.` };
}

function makeCanvas(side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return { canvas, context };
}

function draw(source, x, y, from, to) {
  const { canvas, context } = makeCanvas(to);
  context.drawImage(source, x, y, from, from, 0, 0, to, to);
  return canvas;
}

function flatten(source, side) {
  const { canvas, context } = makeCanvas(side);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  context.drawImage(source, 0, 0);
  return canvas;
}

function read(canvas, side) {
  const data = (from) => from.getContext("2d").getImageData(0, 0, side, side).data;
  try {
    if (!data(grey(side)).every((value, i) => Math.abs(value - (i % 4 === 3 ? 255 : GREY)) <= 2)) {
      throw new Error("other pixels than were drawn"); // so that pages cannot tell readers apart
    }
    return data(canvas);
  } catch {
    throw new UploadError("The browser does not let this page read the image's pixels.");
  }
}

const GREY = 128;

function grey(side) {
  const { canvas, context } = makeCanvas(side);
  context.fillStyle = `rgb(${GREY}, ${GREY}, ${GREY})`;
  context.fillRect(0, 0, side, side);
  return canvas;
}

function hasClear(canvas, side) {
  return read(canvas, side).some((value, i) => i % 4 === 3 && value < 255);
}
