// The Live Lab's files, and the engines that run its networks. Everything is fetched only when a lab
// is looked at or touched.

import { LoadError, fetchFile, notWhole, once, scriptBytes } from "./files.mjs";
import { startEngine } from "./ports.mjs";
import { SIDE } from "./settings.mjs";

/**
 * Takes the weights file apart; lab.py says how it is laid out.
 * @param {ArrayBuffer} file
 * @returns {{networks: Object<string, object[]>, numbers: Float32Array, shape: number[]}}
 */
export function readWeights(file) {
  try {
    const length = new DataView(file).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 4, length)));
    const numbers = new Float32Array(file, 4 + length);
    if (numbers.length !== header.numbers || !numbers.every(Number.isFinite)) throw new RangeError();
    return { ...header, numbers };
  } catch {
    throw notWhole("weights");
  }
}

/** The images to choose from, `count` of them: all their bytes, one image after the other. */
export function loadImages(folder, version, count) {
  return once("images", async () => {
    const all = await scriptBytes(folder, version, "images");
    if (all.length !== count * SIDE * SIDE * 3) throw notWhole("images");
    return all;
  });
}

/**
 * Starts an engine for each network, or for those that are named. The weights are fetched once per
 * page, but every lab has engines of its own: two labs never wait for each other's questions.
 * @param {(reason: string) => void} failed  called once if one fails after all have started; by
 *   then all are stopped
 * @returns {Promise<Object<string, Engine>>}  by the network's name
 */
export async function loadEngines(folder, version, engineScope, failed, names) {
  const file = await once("weights", () => fetchFile(folder, version, "weights").then(readWeights));
  const { networks, numbers, shape } = file;
  const engines = {};
  let broken = false;
  return new Promise((resolve, reject) => {
    const asleep = new Set(names ?? Object.keys(networks));
    const fail = (reason) => {
      if (broken) return;
      broken = true;
      for (const engine of Object.values(engines)) engine.stop();
      if (asleep.size) reject(new LoadError(`The network could not run: ${reason}.`));
      else failed(reason);
    };
    for (const name of [...asleep]) {
      const ready = () => asleep.delete(name) && !asleep.size && !broken && resolve(engines);
      engines[name] = startEngine(engineScope, { layers: networks[name], numbers, shape }, ready, fail);
    }
  });
}
