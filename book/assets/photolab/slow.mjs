// kernel.ts in JavaScript, several times slower: for a browser without WebAssembly or SIMD, and for a
// book that was built without npm. Arrays take the place of addresses; all else is said there.

const within = (value, low, high) => (value < low ? low : value > high ? high : value);

/** c = a b + bias, kept within [low, high]. Two rows times four columns are summed at once. */
function multiply(a, b, bias, c, rows, inner, columns, low, high) {
  const one = Math.min(rows - 1, 1); // a single row is both of the two
  for (let j = 0; j < columns; j += 4) {
    const packed = (j - (j % 8)) * inner + (j % 8);
    const bias0 = bias[j], bias1 = bias[j + 1], bias2 = bias[j + 2], bias3 = bias[j + 3];
    for (let next = 0; next < rows; next += 2) {
      const i = Math.max(Math.min(next, rows - 2), 0);
      const first = i * inner, second = first + one * inner;
      let s00 = bias0, s01 = bias1, s02 = bias2, s03 = bias3;
      let s10 = bias0, s11 = bias1, s12 = bias2, s13 = bias3;
      for (let k = 0, at = packed; k < inner; k++, at += 8) {
        const a0 = a[first + k], a1 = a[second + k];
        const b0 = b[at], b1 = b[at + 1], b2 = b[at + 2], b3 = b[at + 3];
        s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
        s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
      }
      const to = i * columns + j, below = to + one * columns;
      c[to] = within(s00, low, high); c[to + 1] = within(s01, low, high);
      c[to + 2] = within(s02, low, high); c[to + 3] = within(s03, low, high);
      c[below] = within(s10, low, high); c[below + 1] = within(s11, low, high);
      c[below + 2] = within(s12, low, high); c[below + 3] = within(s13, low, high);
    }
  }
}

/** Convolves each channel alone, adds its bias and keeps the sum within [low, high]. */
function depthwise(
  input, weight, bias, output, channels, height, width, outHeight, outWidth, kernel, stride, padding, low, high,
) {
  for (let y = 0; y < outHeight; y++) {
    const top = y * stride - padding;
    const firstY = Math.max(0, -top), lastY = Math.min(kernel, height - top);
    for (let x = 0; x < outWidth; x++) {
      const left = x * stride - padding;
      const firstX = Math.max(0, -left), lastX = Math.min(kernel, width - left);
      const to = (y * outWidth + x) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = bias[channel];
        for (let ky = firstY; ky < lastY; ky++) {
          let from = ((top + ky) * width + left + firstX) * channels + channel;
          let tap = (ky * kernel + firstX) * channels + channel;
          for (let kx = firstX; kx < lastX; kx++, from += channels, tap += channels) {
            sum += input[from] * weight[tap];
          }
        }
        output[to + channel] = within(sum, low, high);
      }
    }
  }
}

/** From the gradient of what `depthwise` returns to that of its input. */
function depthwiseBack(
  outGrad, weight, grad, channels, height, width, outHeight, outWidth, kernel, stride, padding,
) {
  const first = (at) => Math.max(0, Math.ceil((at + padding - kernel + 1) / stride));
  const last = (at, count) => Math.min(count - 1, Math.floor((at + padding) / stride));
  for (let y = 0; y < height; y++) {
    const firstY = first(y), lastY = last(y, outHeight);
    for (let x = 0; x < width; x++) {
      const firstX = first(x), lastX = last(x, outWidth);
      const to = (y * width + x) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let outY = firstY; outY <= lastY; outY++) {
          const ky = y + padding - outY * stride;
          for (let outX = firstX; outX <= lastX; outX++) {
            const kx = x + padding - outX * stride;
            const from = (outY * outWidth + outX) * channels + channel;
            sum += outGrad[from] * weight[(ky * kernel + kx) * channels + channel];
          }
        }
        grad[to + channel] = sum;
      }
    }
  }
}

/** Replaces every value strictly between `low` and `high` with its gradient, and all others with zero. */
function gate(grad, value, count, low, high) {
  for (let i = 0; i < count; i++) value[i] = value[i] > low && value[i] < high ? grad[i] : 0;
}

/** The kernel as network.mjs uses it. */
export function slowKernel() {
  return { simd: false, floats: (count) => new Float32Array(count), multiply, depthwise, depthwiseBack, gate };
}
