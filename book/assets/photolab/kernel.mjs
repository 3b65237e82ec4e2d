// Opens the compiled kernel.ts, or what stands in for it. Either has the same functions, of arrays.

import { slowKernel } from "./slow.mjs";

/** The memory of one network, in pages of 64 KiB; those that are not written take none of the machine's. */
const PAGES = 1536;

/**
 * The loops of a network and the memory on which they work.
 * @typedef {object} Kernel
 * @property {boolean} simd  whether it is the fast one
 * @property {(count: number) => Float32Array} floats  memory for the kernel's functions, full of zeros
 * @property {function} multiply
 * @property {function} depthwise
 * @property {function} depthwiseBack
 * @property {function} gate
 */

/**
 * Opens the fast kernel where the browser has WebAssembly with SIMD and the page's policy lets it run.
 * @param {?Uint8Array} code  the compiled kernel; none where the build had no compiler
 * @returns {Promise<Kernel>}
 */
export async function openKernel(code) {
  if (!code) return slowKernel();
  let module;
  try {
    module = await WebAssembly.compile(code);
  } catch {
    return slowKernel();
  }
  const memory = new WebAssembly.Memory({ initial: PAGES });
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  let used = 0;
  const floats = (count) => {
    const view = new Float32Array(memory.buffer, used, count);
    used += 16 * Math.ceil(view.byteLength / 16);
    return view;
  };
  // The compiled functions take an array's address in place of the array.
  const onArrays = (compiled) => (...values) => compiled(...values.map((value) => value.byteOffset ?? value));
  const { multiply, depthwise, depthwiseBack, gate } = exports;
  return {
    simd: true,
    floats,
    multiply: onArrays(multiply),
    depthwise: onArrays(depthwise),
    depthwiseBack: onArrays(depthwiseBack),
    gate: onArrays(gate),
  };
}
