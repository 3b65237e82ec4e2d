// A network that runs in the page: forward to the logits, backward to the gradient of the pixels.
//
// A network is a list of layers described as data; lab.py writes it. Each layer is made once
// for a fixed image size and owns its buffers, so an attack allocates nothing. `backward` belongs
// to the last `forward`. Sums are in double precision: no further from the exact ones than PyTorch's.

import { build, centre, fold, pieces, roundUp, size, sum, unfold } from "./layers.mjs";

const array = (shape) => new Float64Array(size(shape));

/**
 * c = a b: nearly all time goes here. Two rows times four columns are summed at once, in registers,
 * and both matrices are read in the order in which they lie in memory.
 * @param {Float64Array} a  rows x inner, the number of rows even
 * @param {Float64Array} b  inner x columns, as `pack` returns it
 * @param {Float64Array} c  rows x columns, the number of columns a multiple of 4
 */
function multiply(a, b, c, rows, inner, columns) {
  for (let j = 0; j < columns; j += 4) {
    for (let i = 0; i < rows; i += 2) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      const first = i * inner, second = first + inner;
      for (let k = 0, at = j * inner; k < inner; k++, at += 4) {
        const a0 = a[first + k], a1 = a[second + k];
        const b0 = b[at], b1 = b[at + 1], b2 = b[at + 2], b3 = b[at + 3];
        s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
        s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
      }
      const to = i * columns + j, below = to + columns;
      c[to] = s00; c[to + 1] = s01; c[to + 2] = s02; c[to + 3] = s03;
      c[below] = s10; c[below + 1] = s11; c[below + 2] = s12; c[below + 3] = s13;
    }
  }
}

/** A matrix in the order in which `multiply` reads it: four columns side by side, then the next. */
function pack(inner, columns, entry) {
  const packed = new Float64Array(inner * roundUp(columns, 4));
  for (let j = 0; j < columns; j++) {
    for (let k = 0; k < inner; k++) packed[(j - (j % 4)) * inner + 4 * k + (j % 4)] = entry(k, j);
  }
  return packed;
}

/**
 * Convolution as one matrix product with the image's unfolded patches. Its gradient is the
 * product with the transposed matrix, folded back: what a pixel gave to several patches adds up.
 */
function conv(shape, { out, kernel, stride, padding }, weight, bias) {
  const side = (n) => Math.floor((n + 2 * padding - kernel) / stride) + 1;
  const outShape = [side(shape[0]), side(shape[1]), out];
  const pixels = outShape[0] * outShape[1];
  const inner = kernel * kernel * shape[2];
  const patch = roundUp(inner, 4);
  const places = pieces(shape, outShape, kernel, stride, padding, patch);
  const forwards = pack(patch, out, (k, o) => (k < inner ? weight[o * inner + k] : 0));
  const backwards = pack(out, patch, (o, k) => (k < inner ? weight[o * inner + k] : 0));
  // What lies outside the image is never written, and so stays zero.
  const patches = new Float64Array(pixels * patch);
  const patchGrad = new Float64Array(pixels * patch);
  const result = new Float64Array(size(outShape));
  const grad = new Float64Array(size(shape));
  return {
    shape: outShape,
    forward(input) {
      unfold(places, input, patches);
      multiply(patches, forwards, result, pixels, patch, out);
      for (let i = 0; i < result.length; i += out) {
        for (let o = 0; o < out; o++) result[i + o] += bias[o];
      }
      return result;
    },
    backward(outGrad) {
      multiply(outGrad, backwards, patchGrad, pixels, out, patch);
      fold(places, patchGrad, grad);
      return grad;
    },
  };
}

/** What is negative becomes zero, and there the gradient is zero too; at 0 itself, as in PyTorch. */
function relu(shape) {
  const result = new Float64Array(size(shape));
  const grad = new Float64Array(size(shape));
  return {
    shape,
    forward(input) {
      for (let i = 0; i < result.length; i++) result[i] = input[i] > 0 ? input[i] : 0;
      return result;
    },
    backward(outGrad) {
      for (let i = 0; i < grad.length; i++) grad[i] = result[i] > 0 ? outGrad[i] : 0;
      return grad;
    },
  };
}

/** Averages over squares of `side` pixels; without `side`, over the whole image. */
function average([height, width, channels], { side = height }) {
  const shape = [height / side, width / side, channels];
  const result = new Float64Array(size(shape));
  const grad = new Float64Array(height * width * channels);
  const target = Int32Array.from(grad, (_, i) => {
    const pixel = Math.floor(i / channels);
    const y = Math.floor(pixel / width / side), x = Math.floor((pixel % width) / side);
    return (y * shape[1] + x) * channels + (i % channels);
  });
  const share = 1 / (side * side);
  return {
    shape,
    forward(input) {
      result.fill(0);
      for (let i = 0; i < target.length; i++) result[target[i]] += input[i] * share;
      return result;
    },
    backward(outGrad) {
      for (let i = 0; i < target.length; i++) grad[i] = outGrad[target[i]] * share;
      return grad;
    },
  };
}

function linear(shape, { out }, weight, bias) {
  const inner = size(shape);
  const result = new Float64Array(out);
  const grad = new Float64Array(inner);
  return {
    shape: [1, 1, out],
    forward(input) {
      for (let o = 0; o < out; o++) {
        result[o] = bias[o];
        for (let k = 0; k < inner; k++) result[o] += weight[o * inner + k] * input[k];
      }
      return result;
    },
    backward(outGrad) {
      grad.fill(0);
      for (let o = 0; o < out; o++) {
        for (let k = 0; k < inner; k++) grad[k] += weight[o * inner + k] * outGrad[o];
      }
      return grad;
    },
  };
}

/**
 * Weight and bias of a layer. A batch norm behind it is folded in: once trained, it multiplies each
 * channel by a constant and adds another. Folding in double precision changes nothing that counts.
 */
function weights({ out, weight, bias, norm }, inner, numbers) {
  const read = (place, count) => Float64Array.from(numbers.subarray(place, place + count));
  const w = read(weight, out * inner);
  const b = bias === undefined ? new Float64Array(out) : read(bias, out);
  if (norm) {
    const [gain, shift, mean, variance] = norm.places.map((place) => read(place, out));
    for (let o = 0; o < out; o++) {
      const factor = gain[o] / Math.sqrt(variance[o] + norm.eps);
      for (let k = o * inner; k < (o + 1) * inner; k++) w[k] *= factor;
      b[o] = (b[o] - mean[o]) * factor + shift[o];
    }
  }
  return [w, b];
}

/**
 * Builds a network from its description.
 * @param {object[]} described  the layers; `weight` and `bias` are places in `numbers`
 * @param {Float32Array} numbers  all weights
 * @param {number[]} shape  of the input, [height, width, channels]
 * @returns {import("./layers.mjs").Layer}
 */
export function makeNetwork(described, numbers, shape) {
  const taken = (layer, inner) => weights(layer, inner, numbers);
  const make = {
    relu,
    average,
    centre: (at, layer) => centre(at, layer, array),
    conv: (at, layer) => conv(at, layer, ...taken(layer, layer.kernel ** 2 * at[2])),
    linear: (at, layer) => linear(at, layer, ...taken(layer, size(at))),
    sum: (at, layer) => sum(at, layer.branches.map((one) => build(one, make, at)), array),
  };
  return build(described, make, shape);
}

/** The Live Lab's part of `serve`. */
export async function openNetwork({ layers, numbers, shape }) {
  return { network: makeNetwork(layers, numbers, shape), about: {} };
}
