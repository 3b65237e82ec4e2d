// A network that runs in the page: forward to the logits, backward to the gradient of the pixels.
//
// A network is a list of layers described as data; book/_ext/lab.py writes it. Each layer is made once
// for a fixed picture size and owns its buffers, so an attack allocates nothing. `backward` belongs
// to the last `forward`. Numbers are stored pixel by pixel, all channels of a pixel side by side, as
// in a canvas. Sums are in double precision: no further from the exact ones than PyTorch's.

/**
 * What one layer does. Shapes are [height, width, channels].
 * @typedef {object} Layer
 * @property {number[]} shape  shape of what `forward` returns
 * @property {(input: Float64Array) => Float64Array} forward
 * @property {(grad: Float64Array) => Float64Array} backward  gradient of the output to that of the input
 */

const size = (shape) => shape.reduce((a, b) => a * b, 1);
const roundUp = (n, to) => to * Math.ceil(n / to);

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
 * Where the pieces of a picture lie among its unfolded patches: [in patches, in picture, length].
 * A piece is the part of one row of the kernel that lies inside the picture.
 */
function pieces([height, width, channels], [outHeight, outWidth], kernel, stride, padding, patch) {
  const list = [];
  for (let y = 0; y < outHeight; y++) {
    for (let x = 0; x < outWidth; x++) {
      const left = x * stride - padding;
      const first = Math.max(0, -left), last = Math.min(kernel, width - left);
      for (let ky = 0; ky < kernel; ky++) {
        const row = y * stride + ky - padding;
        if (row < 0 || row >= height) continue;
        const to = (y * outWidth + x) * patch + (ky * kernel + first) * channels;
        list.push(to, (row * width + left + first) * channels, (last - first) * channels);
      }
    }
  }
  return Int32Array.from(list);
}

/**
 * Convolution as one matrix product with the picture's unfolded patches. Its gradient is the
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
  // What lies outside the picture is never written, and so stays zero.
  const patches = new Float64Array(pixels * patch);
  const patchGrad = new Float64Array(pixels * patch);
  const result = new Float64Array(size(outShape));
  const grad = new Float64Array(size(shape));
  return {
    shape: outShape,
    forward(input) {
      for (let p = 0; p < places.length; p += 3) {
        const to = places[p], from = places[p + 1], length = places[p + 2];
        for (let i = 0; i < length; i++) patches[to + i] = input[from + i];
      }
      multiply(patches, forwards, result, pixels, patch, out);
      for (let i = 0; i < result.length; i += out) {
        for (let o = 0; o < out; o++) result[i + o] += bias[o];
      }
      return result;
    },
    backward(outGrad) {
      multiply(outGrad, backwards, patchGrad, pixels, out, patch);
      grad.fill(0);
      for (let p = 0; p < places.length; p += 3) {
        const from = places[p], to = places[p + 1], length = places[p + 2];
        for (let i = 0; i < length; i++) grad[to + i] += patchGrad[from + i];
      }
      return grad;
    },
  };
}

/** The pixels, moved and scaled to what the network was trained on. */
function centre(shape, { mean, scale }) {
  const result = new Float64Array(size(shape));
  const grad = new Float64Array(size(shape));
  return {
    shape,
    forward(input) {
      for (let i = 0; i < result.length; i++) result[i] = (input[i] - mean) * scale;
      return result;
    },
    backward(outGrad) {
      for (let i = 0; i < grad.length; i++) grad[i] = outGrad[i] * scale;
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

/** Averages over squares of `side` pixels; without `side`, over the whole picture. */
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

/** The sum of several branches that read the same input; the gradient is the sum of theirs. */
function sum(shape, branches) {
  const result = new Float64Array(size(branches[0].shape));
  const grad = new Float64Array(size(shape));
  const addUp = (total, parts) => {
    total.fill(0);
    for (const part of parts) for (let i = 0; i < total.length; i++) total[i] += part[i];
    return total;
  };
  return {
    shape: branches[0].shape,
    forward: (input) => addUp(result, branches.map((branch) => branch.forward(input))),
    backward: (outGrad) => addUp(grad, branches.map((branch) => branch.backward(outGrad))),
  };
}

/** Layers one after the other; none at all hands its input on, as a shortcut does. */
function chain(shape, layers) {
  return {
    shape: layers.length ? layers[layers.length - 1].shape : shape,
    forward: (input) => layers.reduce((value, layer) => layer.forward(value), input),
    backward: (grad) => layers.reduceRight((value, layer) => layer.backward(value), grad),
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
 * @returns {Layer}
 */
export function makeNetwork(described, numbers, shape) {
  const taken = (layer, inner) => weights(layer, inner, numbers);
  const make = {
    centre,
    relu,
    average,
    conv: (at, layer) => conv(at, layer, ...taken(layer, layer.kernel ** 2 * at[2])),
    linear: (at, layer) => linear(at, layer, ...taken(layer, size(at))),
    sum: (at, layer) => sum(at, layer.branches.map((one) => makeNetwork(one, numbers, at))),
  };
  const layers = [];
  let at = shape;
  for (const layer of described) {
    layers.push(make[layer.op](at, layer));
    at = layers[layers.length - 1].shape;
  }
  return chain(shape, layers);
}
