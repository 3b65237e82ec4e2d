// The Photo Lab's networks: each is fetched when the reader asks for it, or starts by itself where the
// browser has kept it.

import { reasonOf } from "../lab/files.mjs";
import { keptFile, fetchedFile, startNetwork } from "./load.mjs";

/**
 * A network as the reader sees it.
 * @typedef {object} Network
 * @property {string} name  as in a link and in the settings
 * @property {string} title
 * @property {number} bytes  of its file
 * @property {string} intro  what it is needed for
 * @property {"none" | "loading" | "ready"} state
 * @property {number} arrived  bytes
 * @property {string} about  the network that is ready
 * @property {string} failure
 * @property {?import("../lab/ports.mjs").Engine} engine
 * @property {() => Promise<void>} load
 * @property {() => Promise<void>} wake  loads it if the browser has kept it
 * @property {() => void} cancel
 */

/**
 * @param {{name: string, title: string, intro: string, bytes: number, sha256: string}} described
 * @param {{folder: string, engineScope: function}} from
 * @param {{changed: () => void, ready: () => void, stopped: () => void}} tell
 * @returns {Network}
 */
export function makePhotoNetwork(described, { folder, engineScope }, tell) {
  const { name, sha256 } = described;
  const weights = { folder, version: `?v=${sha256.slice(0, 8)}`, name, sha256 };
  const network = { ...described, state: "none", arrived: 0, about: "", failure: "", engine: null, load, wake, cancel };
  let control = null;

  function set(what) {
    Object.assign(network, what);
    tell.changed();
  }

  async function wake() {
    if (control || network.engine) return;
    const file = await keptFile(weights);
    if (file && !control && !network.engine) await load(file);
  }

  async function load(file) {
    if (control) return;
    control = new AbortController();
    const { signal } = control;
    set({ state: "loading", arrived: 0, failure: "" });
    try {
      const whole = file ?? (await keptFile(weights)) ??
        (await fetchedFile(weights, { signal, progress: (arrived) => set({ arrived }) }));
      signal.throwIfAborted();
      const { engine, simd, apart } = await startNetwork(whole, engineScope, KERNEL, stopped);
      set({ state: "ready", engine, about: aboutNetwork(simd, apart) });
      tell.ready();
    } catch (error) {
      const failure = `The network could not be loaded. ${reasonOf(error)} The stored answers are still here.`;
      set({ state: "none", failure: error.name === "AbortError" ? "" : failure });
    }
    control = null;
  }

  function cancel() {
    control?.abort();
  }

  function stopped(reason) {
    network.engine = null;
    tell.stopped();
    set({
      state: "none", arrived: 0,
      failure: `The network stopped computing (${reason}). What was computed is kept; load it again to go on.`,
    });
  }

  return network;
}

/** What there is to say about the network that runs. */
function aboutNetwork(simd, apart) {
  const all = ["The network is loaded and computes in your browser."];
  if (!simd) all.push("It runs as JavaScript here, several times slower than where WebAssembly runs.");
  if (!apart) all.push("This browser lets no Worker run, so the page may answer late while it computes.");
  return all.join(" ");
}
