// What test_photolab.py runs in a page: the Photo Lab's modules on the files that it has written.

import { classifier, run } from "./lab/attacks.mjs";
import { runOnLevels } from "./photolab/levels.mjs";
import { openKernel } from "./photolab/kernel.mjs";
import { readHalves } from "./photolab/halves.mjs";
import { openNetwork } from "./photolab/open.mjs";
import { makeNetwork, pack } from "./photolab/network.mjs";
import { slowKernel } from "./photolab/slow.mjs";

const file = async (name) => (await fetch(`./${name}`)).arrayBuffer();
const opened = {};

/** A network of the page, with the compiled kernel or the other. */
export function open(simd, name = "lite0") {
  opened[`${name} ${simd}`] ??= (async () => {
    const code = simd ? new Uint8Array(await file("kernel.wasm")) : null;
    const { network, about } = await openNetwork({ file: await file(`${name}.bin`), code });
    if (about.simd !== simd) throw new Error("another kernel runs than was asked for");
    return network;
  })();
  return opened[`${name} ${simd}`];
}

/** Numbers as base64 of doubles: a driver takes seconds for so many as a list. */
function base64(values) {
  const bytes = new Uint8Array(Float64Array.from(values).buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

async function image(place) {
  const pixels = new Uint8Array(await file("compared.bin"));
  const length = 224 * 224 * 3;
  return Float64Array.from(pixels.subarray(place * length, (place + 1) * length), (v) => v / 255);
}

/** How far `ours` is from `theirs`, in shares of the largest of theirs. */
function furthest(ours, theirs) {
  if (ours.length !== theirs.length) return Infinity;
  let apart = 0, largest = 0;
  for (let i = 0; i < theirs.length; i++) {
    if (!Number.isFinite(ours[i])) return Infinity;
    apart = Math.max(apart, Math.abs(ours[i] - theirs[i]));
    largest = Math.max(largest, Math.abs(theirs[i]));
  }
  return apart / largest;
}

/** The length of the difference, in shares of the length of `theirs`. */
function apart(ours, theirs) {
  let between = 0, length = 0;
  for (let i = 0; i < theirs.length; i++) {
    between += (ours[i] - theirs[i]) ** 2;
    length += theirs[i] ** 2;
  }
  return Math.sqrt(between / length);
}

/** Errors of logits and input gradients, and the predicted class, for each of these images. */
export async function errors(simd, places, y, name = "lite0") {
  const logits = new Float32Array(await file(`${name}-logits.bin`));
  const grads = new Float32Array(await file(`${name}-grads.bin`));
  return compare(await open(simd, name), await Promise.all(places.map(image)), places, y, logits, grads);
}

/** The same, computed in double precision with the loops in JavaScript. */
export async function doubleErrors(places, y, name) {
  const { layers, shape, numbers } = readHalves(await file(`${name}.bin`));
  const kernel = { ...slowKernel(), floats: (count) => new Float64Array(count) };
  const network = makeNetwork(kernel, layers, numbers, shape);
  const logits = new Float64Array(await file(`${name}-double-logits.bin`));
  const grads = new Float64Array(await file(`${name}-double-grads.bin`));
  const all = new Float64Array(await file("doubles.bin")), length = 224 * 224 * 3;
  const images = places.map((n) => all.subarray(n * length, (n + 1) * length));
  return compare(network, images, places, y, logits, grads);
}

function compare(network, images, places, y, logits, grads) {
  const model = classifier(network);
  return places.map((n, i) => {
    const x = images[i];
    const nth = (all, length) => all.subarray(n * length, (n + 1) * length);
    const ours = network.forward(x);
    const far = furthest(ours, nth(logits, 1000));
    const predicted = ours.indexOf(Math.max(...ours));
    model.look(x, y[n]);
    return { logits: far, predicted, grads: apart(model.gradient(y[n]), nth(grads, x.length)) };
  });
}

/** What an attack finds, the points of its path, and the size of its change in both norms. */
export async function attack(simd, place, task) {
  const model = classifier(await open(simd));
  const x = await image(place);
  const path = [];
  const running = runOnLevels(model, x, task);
  let turn = running.next();
  for (; !turn.done; turn = running.next()) if (turn.value) path.push(turn.value.loss);
  const { image: found, probabilities, losses } = turn.value;
  const delta = found.map((value, i) => value - x[i]);
  const sizes = [
    delta.reduce((largest, d) => Math.max(largest, Math.abs(d)), 0),
    Math.sqrt(delta.reduce((sum, d) => sum + d * d, 0)),
  ];
  const predicted = probabilities.indexOf(Math.max(...probabilities));
  const inBox = found.every((value) => value >= 0 && value <= 1);
  const probability = probabilities[predicted];
  return { predicted, probability, losses, path, sizes, inBox, image: base64(found) };
}

/** Where attacks on whole levels end, task by task, for a model that is linear and never fooled. */
export function levelled(pixels, slope, tasks) {
  const x = Float64Array.from(pixels, (value) => value / 255);
  const model = {
    look: (image) => ({ loss: image.reduce((sum, v, i) => sum + v * slope[i], 0), probabilities: [1, 0] }),
    gradient: () => Float64Array.from(slope),
  };
  return tasks.map((task) => {
    const running = runOnLevels(model, x, { ...task, y: 0, levels: true });
    let turn = running.next();
    while (!turn.done) turn = running.next();
    return Array.from(turn.value.image, (value) => 255 * value);
  });
}

/** The noise that the engine draws, as a change of grey values. */
export function noise() {
  const model = { look: () => ({ loss: 0, probabilities: [1] }) };
  const grey = new Float64Array(224 * 224 * 3).fill(0.5);
  const running = run(model, grey, { attack: "noise", norm: "linf", eps: 0.25, steps: 1, y: 0 });
  running.next();
  return base64(running.next().value.image.map((value) => 4 * (value - 0.5)));
}

/** Milliseconds of a gradient, forward and backward: the best of several. */
export async function milliseconds(simd, times) {
  const model = classifier(await open(simd));
  const x = await image(0);
  let best = Infinity;
  for (let i = 0; i < times; i++) {
    const since = performance.now();
    model.look(x, 0);
    model.gradient(0);
    best = Math.min(best, performance.now() - since);
  }
  return best;
}

const random = (count) => Float32Array.from({ length: count }, () => 2 * Math.random() - 1);
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** The error of `multiply` for each [rows, inner, columns], against a plain loop. */
export async function productErrors(simd, sizes) {
  const kernel = await openKernel(simd ? new Uint8Array(await file("kernel.wasm")) : null);
  return sizes.map(([rows, inner, columns]) => {
    const a = kernel.floats(4 * Math.max(rows, 4) * inner).subarray(0, rows * inner);
    const c = kernel.floats(4 * Math.max(rows, 4) * columns).subarray(0, rows * columns);
    const bias = kernel.floats(columns), b = random(inner * columns);
    a.set(random(a.length));
    bias.set(random(columns));
    const packed = pack(kernel, inner, columns, (k, j) => b[k * columns + j]);
    kernel.multiply(a, packed, bias, c, rows, inner, columns, -0.5, 1.5);
    const expected = Float64Array.from(c, (_, at) => {
      const i = Math.floor(at / columns), j = at % columns;
      let sum = bias[j];
      for (let k = 0; k < inner; k++) sum += a[i * inner + k] * b[k * columns + j];
      return clip(sum, -0.5, 1.5);
    });
    return furthest(c, expected);
  });
}

/** The errors of both directions of `depthwise` for each of the sizes, against plain loops. */
export async function depthwiseErrors(simd, sizes) {
  const kernel = await openKernel(simd ? new Uint8Array(await file("kernel.wasm")) : null);
  const filled = (count) => {
    const view = kernel.floats(count);
    view.set(random(count));
    return view;
  };
  return sizes.flatMap(([channels, height, width, outHeight, outWidth, side, stride, padding]) => {
    const input = filled(height * width * channels), weight = filled(side * side * channels);
    const bias = filled(channels), outGrad = filled(outHeight * outWidth * channels);
    const output = kernel.floats(outGrad.length), grad = kernel.floats(input.length);
    const shape = [channels, height, width, outHeight, outWidth, side, stride, padding];
    kernel.depthwise(input, weight, bias, output, ...shape, -1, 1);
    kernel.depthwiseBack(outGrad, weight, grad, ...shape);
    const sums = Float64Array.from(output, (_, i) => bias[i % channels]);
    const slopes = new Float64Array(grad.length);
    for (let o = 0; o < sums.length; o++) {
      const channel = o % channels, pixel = Math.floor(o / channels);
      for (let tap = 0; tap < side * side; tap++) {
        const y = Math.floor(pixel / outWidth) * stride + Math.floor(tap / side) - padding;
        const x = (pixel % outWidth) * stride + (tap % side) - padding;
        if (y < 0 || y >= height || x < 0 || x >= width) continue;
        const i = (y * width + x) * channels + channel;
        sums[o] += input[i] * weight[tap * channels + channel];
        slopes[i] += outGrad[o] * weight[tap * channels + channel];
      }
    }
    return [furthest(output, sums.map((sum) => clip(sum, -1, 1))), furthest(grad, slopes)];
  });
}

/** What `gate` leaves of gradients 1, 2, 3 ... at these values. */
export async function gated(simd, values, low, high) {
  const kernel = await openKernel(simd ? new Uint8Array(await file("kernel.wasm")) : null);
  const value = kernel.floats(values.length), grad = kernel.floats(values.length);
  value.set(values);
  grad.set(values.map((_, i) => i + 1));
  kernel.gate(grad, value, values.length, low, high);
  return Array.from(value);
}

/** The numbers of a file in half precision, as text: JSON has no infinity. */
export async function halves(name) {
  return Array.from(readHalves(await file(name)).numbers, String);
}
