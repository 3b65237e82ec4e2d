// What both networks of the pages are built of: the Live Lab's and the Photo Lab's.
//
// Numbers are stored pixel by pixel, all channels of a pixel side by side, as in a canvas.

/**
 * What one layer does. Shapes are [height, width, channels].
 * @typedef {object} Layer
 * @property {number[]} shape  shape of what `forward` returns
 * @property {(input: Float32Array | Float64Array) => Float32Array | Float64Array} forward
 * @property {(grad: Float32Array | Float64Array) => Float32Array | Float64Array} backward  gradient of
 *   the output to that of the input
 */

export const size = (shape) => shape.reduce((a, b) => a * b, 1);
export const roundUp = (n, to) => to * Math.ceil(n / to);

/**
 * Where the pieces of an image lie among its unfolded patches: [in patches, in image, length].
 * A piece is the part of one row of the kernel that lies inside the image.
 */
export function pieces([height, width, channels], [outHeight, outWidth], kernel, stride, padding, patch) {
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

/** Copies an image into its patches; what lies outside the image is left as it is. */
export function unfold(places, image, patches) {
  for (let p = 0; p < places.length; p += 3) {
    const to = places[p], from = places[p + 1], length = places[p + 2];
    for (let i = 0; i < length; i++) patches[to + i] = image[from + i];
  }
}

/** The reverse: what a pixel gave to several patches adds up. */
export function fold(places, patches, image) {
  image.fill(0);
  for (let p = 0; p < places.length; p += 3) {
    const from = places[p], to = places[p + 1], length = places[p + 2];
    for (let i = 0; i < length; i++) image[to + i] += patches[from + i];
  }
}

/** The pixels, moved and scaled to what the network was trained on; `array` makes one of a shape. */
export function centre(shape, { mean, scale }, array) {
  const result = array(shape);
  const grad = array(shape);
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

/** The sum of several branches that read the same input; the gradient is the sum of theirs. */
export function sum(shape, branches, array) {
  const result = array(branches[0].shape);
  const grad = array(shape);
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
export function chain(shape, layers) {
  return {
    shape: layers.length ? layers[layers.length - 1].shape : shape,
    forward: (input) => layers.reduce((value, layer) => layer.forward(value), input),
    backward: (grad) => layers.reduceRight((value, layer) => layer.backward(value), grad),
  };
}

/**
 * Builds a network from its description, each layer with the function of its name in `make`.
 * @param {object[]} described
 * @param {Object<string, (shape: number[], layer: object) => Layer>} make
 * @param {number[]} shape  of the input
 * @returns {Layer}
 */
export function build(described, make, shape) {
  const layers = [];
  let at = shape;
  for (const layer of described) {
    layers.push(make[layer.op](at, layer));
    at = layers[layers.length - 1].shape;
  }
  return chain(shape, layers);
}
