// An ImageNet network that runs in the page, in float32: forward to the logits, backward to the
// gradient of the pixels. photo_networks.py describes it as data, its batch norms folded in.
//
// Each layer is made once and owns its buffers, so an attack allocates next to nothing. `backward`
// belongs to the last `forward` and uses up what that has stored: it may be called once.

import { build, centre, fold, pieces, roundUp, size, sum, unfold } from "../lab/layers.mjs";

/** How many rows the kernel multiplies at once; less is never taken from an array. */
const ROWS = 4;

/** Memory for what has this shape. */
function image(kernel, shape) {
  const [height, width, channels] = shape;
  return kernel.floats(Math.max(height * width, ROWS) * channels).subarray(0, size(shape));
}

/** A matrix in the order in which the kernel reads it: eight columns side by side, then the next. */
export function pack(kernel, inner, columns, entry) {
  const packed = kernel.floats(inner * columns);
  for (let j = 0, at = 0; j < columns; j += 8) {
    for (let k = 0; k < inner; k++) for (let i = j; i < j + 8; i++) packed[at++] = entry(k, i);
  }
  return packed;
}

/**
 * TensorFlow's "same" padding: the output is the input's size divided by the stride, rounded up. The
 * zero that is left over goes to the right and below.
 * @returns {[number, number]}  the output's size, and the zeros to the left or above
 */
function same(side, kernel, stride) {
  const out = Math.ceil(side / stride);
  return [out, Math.floor(Math.max((out - 1) * stride + kernel - side, 0) / 2)];
}

/** The same where the description says how many zeros stand on every side. */
const padded = (side, { kernel, stride, padding }) =>
  (padding === undefined ? same(side, kernel, stride)
    : [Math.floor((side + 2 * padding - kernel) / stride) + 1, padding]);

/** The bounds of a layer that ends with ReLU or ReLU6, and of one that does not. */
const bounds = ({ relu, relu6 }) => [relu || relu6 ? 0 : -Infinity, relu6 ? 6 : Infinity];

/**
 * Convolution as one matrix product, with the image itself where the kernel is one pixel and otherwise
 * with its unfolded patches. Backward is the product with the transposed matrix, folded back.
 */
function conv(kernel, shape, layer, numbers) {
  const { out, kernel: side, stride } = layer;
  const [height, padding] = padded(shape[0], layer);
  const [width] = padded(shape[1], layer);
  const outShape = [height, width, out], pixels = height * width;
  const inner = side * side * shape[2], patch = roundUp(inner, 8);
  const pointwise = side === 1 && stride === 1 && patch === inner;
  const entry = (k, o) => (k < inner ? numbers[layer.weight + o * inner + k] : 0);
  const forwards = pack(kernel, patch, out, entry);
  const backwards = pack(kernel, out, patch, (o, k) => entry(k, o));
  const bias = kernel.floats(out), none = kernel.floats(patch);
  bias.set(numbers.subarray(layer.bias, layer.bias + out));
  const places = pointwise ? null : pieces(shape, outShape, side, stride, padding, patch);
  // What lies outside the image is never written, and so stays zero.
  const patches = pointwise ? null : image(kernel, [height, width, patch]);
  const patchGrad = image(kernel, [height, width, patch]);
  const result = image(kernel, outShape);
  const grad = pointwise ? patchGrad : image(kernel, shape);
  const [low, high] = bounds(layer);
  const bounded = low === 0;
  return {
    shape: outShape,
    forward(input) {
      if (!pointwise) unfold(places, input, patches);
      kernel.multiply(pointwise ? input : patches, forwards, bias, result, pixels, patch, out, low, high);
      return result;
    },
    backward(outGrad) {
      if (bounded) kernel.gate(outGrad, result, result.length, low, high);
      const slope = bounded ? result : outGrad;
      kernel.multiply(slope, backwards, none, patchGrad, pixels, out, patch, -Infinity, Infinity);
      if (!pointwise) fold(places, patchGrad, grad);
      return grad;
    },
  };
}

/** Convolution of each channel alone. */
function depthwiseConv(kernel, shape, layer, numbers) {
  const { kernel: side, stride, relu6 } = layer;
  const [height, width, channels] = shape;
  const [outHeight, padding] = same(height, side, stride);
  const [outWidth] = same(width, side, stride);
  const weight = kernel.floats(side * side * channels), bias = kernel.floats(channels);
  weight.set(numbers.subarray(layer.weight, layer.weight + weight.length));
  bias.set(numbers.subarray(layer.bias, layer.bias + channels));
  const result = image(kernel, [outHeight, outWidth, channels]);
  const grad = image(kernel, shape);
  const sizes = [channels, height, width, outHeight, outWidth, side, stride, padding];
  const [low, high] = bounds(layer);
  return {
    shape: [outHeight, outWidth, channels],
    forward(input) {
      kernel.depthwise(input, weight, bias, result, ...sizes, low, high);
      return result;
    },
    backward(outGrad) {
      if (relu6) kernel.gate(outGrad, result, result.length, low, high);
      kernel.depthwiseBack(relu6 ? result : outGrad, weight, grad, ...sizes);
      return grad;
    },
  };
}

/** The largest value of each window, channel by channel; of several the first, as PyTorch has it. */
function maximum(kernel, shape, { kernel: side, stride }) {
  const [height, width, channels] = shape;
  const [outHeight, outWidth] = [height, width].map((all) => Math.ceil((all - side) / stride) + 1);
  const result = image(kernel, [outHeight, outWidth, channels]);
  const grad = image(kernel, shape);
  const places = new Int32Array(result.length);
  return {
    shape: [outHeight, outWidth, channels],
    forward(input) {
      result.fill(-Infinity);
      for (let y = 0, to = 0; y < outHeight; y++) {
        const bottom = Math.min(y * stride + side, height);
        for (let x = 0; x < outWidth; x++, to += channels) {
          const right = Math.min(x * stride + side, width);
          for (let row = y * stride; row < bottom; row++) {
            for (let column = x * stride; column < right; column++) {
              const from = (row * width + column) * channels;
              for (let i = 0; i < channels; i++) {
                if (!(input[from + i] > result[to + i])) continue;
                result[to + i] = input[from + i];
                places[to + i] = from + i;
              }
            }
          }
        }
      }
      return result;
    },
    backward(outGrad) {
      grad.fill(0);
      for (let i = 0; i < places.length; i++) grad[places[i]] += outGrad[i];
      return grad;
    },
  };
}

/** Several branches that read the same input, the channels of their results side by side. */
function beside(kernel, shape, branches) {
  const [height, width] = branches[0].shape;
  const channels = branches.map((branch) => branch.shape[2]);
  const all = channels.reduce((a, b) => a + b);
  const result = image(kernel, [height, width, all]);
  const grad = image(kernel, shape);
  const slopes = branches.map((branch) => image(kernel, branch.shape));
  /** Calls back with the place of each row of a branch's channels, alone and side by side. */
  const rows = (n, callback) => {
    const before = channels.slice(0, n).reduce((a, b) => a + b, 0), length = channels[n];
    for (let pixel = 0; pixel < height * width; pixel++) callback(pixel * length, pixel * all + before, length);
  };
  return {
    shape: [height, width, all],
    forward(input) {
      branches.forEach((branch, n) => {
        const part = branch.forward(input);
        rows(n, (from, to, length) => {
          for (let i = 0; i < length; i++) result[to + i] = part[from + i];
        });
      });
      return result;
    },
    backward(outGrad) {
      grad.fill(0);
      branches.forEach((branch, n) => {
        rows(n, (to, from, length) => {
          for (let i = 0; i < length; i++) slopes[n][to + i] = outGrad[from + i];
        });
        const part = branch.backward(slopes[n]);
        for (let i = 0; i < grad.length; i++) grad[i] += part[i];
      });
      return grad;
    },
  };
}

/** The mean of each channel over the whole image. */
function mean(kernel, shape) {
  const [height, width, channels] = shape;
  const pixels = height * width;
  const result = image(kernel, [1, 1, channels]);
  const grad = image(kernel, shape);
  return {
    shape: [1, 1, channels],
    forward(input) {
      result.fill(0);
      for (let i = 0; i < pixels * channels; i++) result[i % channels] += input[i] / pixels;
      return result;
    },
    backward(outGrad) {
      for (let i = 0; i < pixels * channels; i++) grad[i] = outGrad[i % channels] / pixels;
      return grad;
    },
  };
}

/**
 * Builds a network from its description.
 * @param {import("./kernel.mjs").Kernel} kernel
 * @param {object[]} described  the layers; `weight` and `bias` are places in `numbers`
 * @param {Float32Array} numbers  all weights
 * @param {number[]} shape  of the input, [height, width, channels]; all other layers have a multiple of
 *   eight channels
 * @returns {import("../lab/layers.mjs").Layer}
 */
export function makeNetwork(kernel, described, numbers, shape) {
  const array = (of) => image(kernel, of);
  const branches = (layer, at) => layer.branches.map((one) => build(one, make, at));
  const make = {
    centre: (at, layer) => centre(at, layer, array),
    conv: (at, layer) => conv(kernel, at, layer, numbers),
    depthwise: (at, layer) => depthwiseConv(kernel, at, layer, numbers),
    maximum: (at, layer) => maximum(kernel, at, layer),
    mean: (at) => mean(kernel, at),
    beside: (at, layer) => beside(kernel, at, branches(layer, at)),
    sum: (at, layer) => sum(at, branches(layer, at), array),
  };
  const network = build(described, make, shape);
  const slope = array(network.shape); // what comes from outside has to be in the kernel's memory
  return {
    ...network,
    backward(grad) {
      slope.set(grad);
      return network.backward(slope);
    },
  };
}
