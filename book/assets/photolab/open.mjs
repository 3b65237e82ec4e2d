// Opens the network for the engine, which is the Live Lab's.

import { openKernel } from "./kernel.mjs";
import { runOnLevels } from "./levels.mjs";
import { makeNetwork } from "./network.mjs";
import { readHalves } from "./halves.mjs";

/**
 * The Photo Lab's part of `serve`.
 * @param {{file: ArrayBuffer, code: ?Uint8Array}} load  the weights, and the compiled kernel if there is one
 */
export async function openNetwork({ file, code }) {
  const { layers, shape, numbers } = readHalves(file);
  const kernel = await openKernel(code);
  const network = makeNetwork(kernel, layers, numbers, shape);
  return { network, about: { simd: kernel.simd }, attack: runOnLevels };
}
