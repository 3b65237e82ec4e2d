// The files of the Photo Lab's networks: fetched, checked, kept by the browser, started.

import { LoadError, fetchFile, notWhole } from "../lab/files.mjs";
import { startEngine } from "../lab/ports.mjs";

/** The browser's store of fetched files. */
const STORE = "advlib-photolab";

/**
 * The file of the weights.
 * @typedef {object} Weights
 * @property {string} folder  where it lies, with a slash at its end
 * @property {string} version  a query that changes with it
 * @property {string} name  of the file, without its suffix
 * @property {string} sha256
 */

/**
 * Starts the network that a file holds.
 * @param {ArrayBuffer} file
 * @param {function} engineScope  what a Worker runs
 * @param {?Uint8Array} code  the compiled kernel
 * @param {(reason: string) => void} failed  called once if it stops working after it has started
 * @returns {Promise<{engine: import("../lab/ports.mjs").Engine, simd: boolean, apart: boolean}>}
 */
export function startNetwork(file, engineScope, code, failed) {
  return new Promise((resolve, reject) => {
    let started = false;
    const ready = ({ simd, apart }) => {
      started = true;
      resolve({ engine, simd, apart });
    };
    const fail = (reason) => {
      engine?.stop();
      if (started) failed(reason);
      else reject(new LoadError(`The network could not run: ${reason}.`));
    };
    let engine = null;
    engine = startEngine(engineScope, { file, code }, ready, fail);
  });
}

/**
 * The file from the server, checked, and kept for the next time.
 * @param {Weights} weights
 * @param {{progress?: (bytes: number) => void, signal?: AbortSignal}} options  as in `fetchFile`
 */
export async function fetchedFile(weights, options) {
  const file = await fetchFile(weights.folder, weights.version, weights.name, options);
  if (!(await isWhole(file, weights.sha256))) throw notWhole("weights");
  try {
    const store = await caches.open(STORE);
    const earlier = await store.keys(addressOf(weights), { ignoreSearch: true });
    for (const old of earlier) await store.delete(old);
    await store.put(addressOf(weights), new Response(file));
  } catch {
    // No store, a forbidden one, or a full one: then it is fetched again next time.
  }
  return file;
}

/**
 * The file as an earlier visit left it, or null.
 * @param {Weights} weights
 */
export async function keptFile(weights) {
  try {
    const answer = await (await caches.open(STORE)).match(addressOf(weights));
    const file = await answer.arrayBuffer();
    return (await isWhole(file, weights.sha256)) ? file : null;
  } catch {
    return null;
  }
}

const addressOf = ({ folder, version, name }) => `${folder}${name}.bin${version}`;

/** Whether the bytes have this SHA-256; without https no browser can say, and the file counts its numbers. */
async function isWhole(file, sha256) {
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", file));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}
