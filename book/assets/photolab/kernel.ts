// The three loops in which an ImageNet network spends its time, for WebAssembly with SIMD.
//
// AssemblyScript, compiled when the book is built. slow.mjs has the same in JavaScript, for browsers
// and builds without it. Arrays are float32 and given by their address in the memory, in bytes. A
// vector holds four numbers: neighbouring channels of one pixel.

const VECTOR: usize = 16;
const NUMBER: usize = 4;

/** Rows that are multiplied before the next columns: so many stay in the processor's cache. */
const BLOCK: i32 = 64;

/**
 * c = a b + bias, kept within [low, high]. Four rows times eight columns are summed at once, in registers.
 *
 * a has rows x inner numbers. b has inner x columns, the number of columns a multiple of 8, packed:
 * eight columns side by side, then the next eight. a and c have room for four rows at least.
 */
export function multiply(
  a: usize, b: usize, bias: usize, c: usize, rows: i32, inner: i32, columns: i32, low: f32, high: f32,
): void {
  const panel = <usize>inner * 8 * NUMBER;
  const row = <usize>inner * NUMBER;
  const line = <usize>columns * NUMBER;
  const least = f32x4.splat(low), most = f32x4.splat(high);
  for (let block = 0; block < rows; block += BLOCK) {
    const end = min(block + BLOCK, rows);
    for (let j = 0; j < columns; j += 8) {
      const packed = b + <usize>(j / 8) * panel;
      const bias0 = v128.load(bias + <usize>j * NUMBER), bias1 = v128.load(bias + <usize>j * NUMBER, VECTOR);
      for (let next = block; next < end; next += 4) {
        // The last four rows may overlap with those before: what is summed twice is the same.
        const i = <usize>max(min(next, rows - 4), 0);
        let a0 = a + i * row, a1 = a0 + row, a2 = a1 + row, a3 = a2 + row;
        let s00 = bias0, s01 = bias1, s10 = bias0, s11 = bias1;
        let s20 = bias0, s21 = bias1, s30 = bias0, s31 = bias1;
        for (let at = packed, stop = packed + panel; at < stop; at += 2 * VECTOR) {
          const b0 = v128.load(at), b1 = v128.load(at, VECTOR);
          const x0 = v128.load_splat<f32>(a0);
          s00 = madd(x0, b0, s00);
          s01 = madd(x0, b1, s01);
          const x1 = v128.load_splat<f32>(a1);
          s10 = madd(x1, b0, s10);
          s11 = madd(x1, b1, s11);
          const x2 = v128.load_splat<f32>(a2);
          s20 = madd(x2, b0, s20);
          s21 = madd(x2, b1, s21);
          const x3 = v128.load_splat<f32>(a3);
          s30 = madd(x3, b0, s30);
          s31 = madd(x3, b1, s31);
          a0 += NUMBER;
          a1 += NUMBER;
          a2 += NUMBER;
          a3 += NUMBER;
        }
        let to = c + i * line + <usize>j * NUMBER;
        store(to, within(s00, least, most), within(s01, least, most));
        to += line;
        store(to, within(s10, least, most), within(s11, least, most));
        to += line;
        store(to, within(s20, least, most), within(s21, least, most));
        to += line;
        store(to, within(s30, least, most), within(s31, least, most));
      }
    }
  }
}

// @ts-ignore: decorator
@inline
function madd(a: v128, b: v128, sum: v128): v128 {
  return f32x4.add(f32x4.mul(a, b), sum);
}

// @ts-ignore: decorator
@inline
function within(x: v128, least: v128, most: v128): v128 {
  return f32x4.pmin(f32x4.pmax(x, least), most);
}

// @ts-ignore: decorator
@inline
function store(to: usize, left: v128, right: v128): void {
  v128.store(to, left);
  v128.store(to, right, VECTOR);
}

/**
 * Convolves each channel alone, adds its bias and keeps the sum within [low, high]. Weights stand tap by
 * tap, all channels of a tap side by side; the number of channels is a multiple of 16.
 */
export function depthwise(
  input: usize, weight: usize, bias: usize, output: usize, channels: i32,
  height: i32, width: i32, outHeight: i32, outWidth: i32,
  kernel: i32, stride: i32, padding: i32, low: f32, high: f32,
): void {
  const pixel = <usize>channels * NUMBER;
  const least = f32x4.splat(low), most = f32x4.splat(high);
  for (let y = 0; y < outHeight; y++) {
    const top = y * stride - padding;
    const firstY = max(0, -top), lastY = min(kernel, height - top);
    for (let x = 0; x < outWidth; x++) {
      const left = x * stride - padding;
      const firstX = max(0, -left), lastX = min(kernel, width - left);
      let to = output + <usize>(y * outWidth + x) * pixel;
      for (let channel: usize = 0; channel < pixel; channel += 4 * VECTOR) {
        let s0 = v128.load(bias + channel), s1 = v128.load(bias + channel, VECTOR);
        let s2 = v128.load(bias + channel, 2 * VECTOR), s3 = v128.load(bias + channel, 3 * VECTOR);
        for (let ky = firstY; ky < lastY; ky++) {
          let from = input + <usize>((top + ky) * width + left + firstX) * pixel + channel;
          let tap = weight + <usize>(ky * kernel + firstX) * pixel + channel;
          for (let kx = firstX; kx < lastX; kx++) {
            s0 = madd(v128.load(from), v128.load(tap), s0);
            s1 = madd(v128.load(from, VECTOR), v128.load(tap, VECTOR), s1);
            s2 = madd(v128.load(from, 2 * VECTOR), v128.load(tap, 2 * VECTOR), s2);
            s3 = madd(v128.load(from, 3 * VECTOR), v128.load(tap, 3 * VECTOR), s3);
            from += pixel;
            tap += pixel;
          }
        }
        store(to, within(s0, least, most), within(s1, least, most));
        store(to + 2 * VECTOR, within(s2, least, most), within(s3, least, most));
        to += 4 * VECTOR;
      }
    }
  }
}

/** From the gradient of what `depthwise` returns to that of its input: every tap that read a pixel. */
export function depthwiseBack(
  outGrad: usize, weight: usize, grad: usize, channels: i32,
  height: i32, width: i32, outHeight: i32, outWidth: i32,
  kernel: i32, stride: i32, padding: i32,
): void {
  const pixel = <usize>channels * NUMBER;
  for (let y = 0; y < height; y++) {
    // Row `out` of the result read this row through its tap `ky = y + padding - out * stride`.
    const firstY = max(0, (y + padding - kernel + stride) / stride);
    const lastY = min(outHeight - 1, (y + padding) / stride);
    for (let x = 0; x < width; x++) {
      const firstX = max(0, (x + padding - kernel + stride) / stride);
      const lastX = min(outWidth - 1, (x + padding) / stride);
      let to = grad + <usize>(y * width + x) * pixel;
      for (let channel: usize = 0; channel < pixel; channel += 4 * VECTOR) {
        let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
        for (let outY = firstY; outY <= lastY; outY++) {
          const ky = y + padding - outY * stride, kx = x + padding - firstX * stride;
          let from = outGrad + <usize>(outY * outWidth + firstX) * pixel + channel;
          let tap = weight + <usize>(ky * kernel + kx) * pixel + channel;
          for (let outX = firstX; outX <= lastX; outX++) {
            s0 = madd(v128.load(from), v128.load(tap), s0);
            s1 = madd(v128.load(from, VECTOR), v128.load(tap, VECTOR), s1);
            s2 = madd(v128.load(from, 2 * VECTOR), v128.load(tap, 2 * VECTOR), s2);
            s3 = madd(v128.load(from, 3 * VECTOR), v128.load(tap, 3 * VECTOR), s3);
            from += pixel;
            tap -= <usize>stride * pixel;
          }
        }
        store(to, s0, s1);
        store(to + 2 * VECTOR, s2, s3);
        to += 4 * VECTOR;
      }
    }
  }
}

/** Replaces every value strictly between `low` and `high` with its gradient, and all others with zero. */
export function gate(grad: usize, value: usize, count: i32, low: f32, high: f32): void {
  const least = f32x4.splat(low), most = f32x4.splat(high);
  for (let i: usize = 0; i < <usize>count * NUMBER; i += VECTOR) {
    const x = v128.load(value + i);
    const free = v128.and(f32x4.gt(x, least), f32x4.lt(x, most));
    v128.store(value + i, v128.and(v128.load(grad + i), free));
  }
}
