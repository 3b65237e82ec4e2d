// What the lab fetches, and the engines that run it. Everything is fetched once per page, however
// many labs it has, and only when a lab is looked at or touched.

import { SIDE } from "./settings.mjs";

/** A file that cannot be fetched or is not whole; its message is a sentence for the reader. */
export class LoadError extends Error {}

const notWhole = (what) => new LoadError(`The file of ${what} is not whole.`);

/** What went wrong, as a sentence. What nobody foresaw is for the console. */
export function reasonOf(error) {
  if (error instanceof LoadError) return error.message;
  console.warn(error);
  return "A script failed here; the browser’s console says how.";
}

/** How long a server may send nothing, and how long a script may take, in milliseconds. */
const STALLED = 20_000, SCRIPT = 60_000;

/** On `window`, because a page with two labs runs this script twice. */
const shared = ((window.advlibLab ??= {}).shared ??= new Map());

/** The promise that `make` returned for `name`; after a failure the next call tries again. */
function once(name, make) {
  if (!shared.has(name)) {
    const promise = make();
    promise.catch(() => shared.delete(name));
    shared.set(name, promise);
  }
  return shared.get(name);
}

/** Runs a script that leaves its value in `window.advlibLab[name]`: this works from disk, too. */
function loadScript(folder, version, name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const done = () => {
      clearTimeout(timer);
      script.remove();
      const value = window.advlibLab?.[name];
      delete window.advlibLab?.[name];
      if (value === undefined) reject(new LoadError("The file did not arrive."));
      else resolve(value);
    };
    const timer = setTimeout(done, SCRIPT);
    script.onload = script.onerror = done;
    script.src = `${folder}${name}.js${version}`;
    document.head.append(script);
  });
}

/** Base64 to bytes. */
export function base64Bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function scriptBytes(folder, version, name) {
  const base64 = await loadScript(folder, version, name);
  try {
    return base64Bytes(base64);
  } catch {
    throw notWhole(name);
  }
}

async function fetchWeights(folder, version) {
  // A page opened from disk may not fetch, so there the same file comes as a script.
  if (location.protocol === "file:") return (await scriptBytes(folder, version, "weights")).buffer;
  const control = new AbortController();
  let failure = "The server could not be reached.";
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(), STALLED);
  };
  try {
    wait();
    const answer = await fetch(`${folder}weights.bin${version}`, { signal: control.signal });
    failure = "The connection broke off.";
    if (answer.ok) return await wholeBody(answer, wait);
    failure = `The server answered ${answer.status}.`;
  } catch {
    if (control.signal.aborted) failure = `The server has sent nothing for ${STALLED / 1000} seconds.`;
  } finally {
    clearTimeout(timer);
  }
  throw new LoadError(failure);
}

/** The bytes of an answer; `arrived` is called for each piece. */
async function wholeBody(answer, arrived) {
  const pieces = [];
  const reader = answer.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    arrived();
  }
  return new Blob(pieces).arrayBuffer();
}

/**
 * Takes the weights file apart; book/_ext/lab.py says how it is laid out.
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

/** The pictures to choose from, `count` of them: all their bytes, one picture after the other. */
export function loadPictures(folder, version, count) {
  return once("pictures", async () => {
    const all = await scriptBytes(folder, version, "pictures");
    if (all.length !== count * SIDE * SIDE * 3) throw notWhole("pictures");
    return all;
  });
}

/**
 * A place where an engine runs.
 * @typedef {object} Port
 * @property {(message: object) => void} post
 * @property {() => void} close  ends it, whatever it is working on
 */

/**
 * Opens a port in the page itself, which then computes between its other work.
 * @returns {Port}
 */
function openHere(engineScope, onmessage) {
  const { port1, port2 } = new MessageChannel();
  engineScope(port1);
  port2.onmessage = onmessage;
  return {
    post: (message) => port2.postMessage(message),
    close() {
      port2.postMessage({ ask: 0, x: null, tasks: [], wanted: 0 }); // else it would go on with its queue
      port2.close();
    },
  };
}

/**
 * Opens a port to a Worker. `failed(reason, silent)` is called if it fails; `silent` says that it
 * has never said anything, as one that is forbidden.
 * @returns {Port}
 */
function openWorker(engineScope, onmessage, failed) {
  const source = `"use strict";(${engineScope})(self);`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  let silent = true;
  const heard = () => URL.revokeObjectURL(address); // not before: it may still be on its way there
  try {
    const worker = new Worker(address);
    worker.onerror = (event) => {
      heard();
      failed(event.message || "its worker ended", silent);
    };
    worker.onmessage = (message) => {
      heard();
      silent = false;
      onmessage(message);
    };
    return { post: (message) => worker.postMessage(message), close: () => worker.terminate() };
  } catch (error) {
    heard();
    throw error;
  }
}

/**
 * A network that answers from elsewhere.
 * @typedef {object} Engine
 * @property {(message: object, answer?: function) => void} send  `answer(place, found)` gets each
 *   result of the message's ask, until the next ask
 * @property {() => void} stop  ends it
 */

/**
 * Starts an engine in a Worker, or in the page where there is none or a policy forbids it.
 * @param {() => void} ready  called when its network is built
 * @param {(reason: string) => void} failed  called if it stops working, before that or later
 * @returns {Engine}
 */
function startEngine(engineScope, load, ready, failed) {
  let port = null;
  let current = { ask: 0, answer: null };
  const receive = ({ data }) => {
    if (data.ready) ready();
    else if (data.error) failed(data.error);
    else if (data.ask === current.ask) current.answer(data.task, data.found);
  };
  const open = (opened) => {
    port = opened;
    port.post({ load });
  };
  const here = () => open(openHere(engineScope, receive));
  try {
    open(openWorker(engineScope, receive, (reason, silent) => {
      if (!silent) return failed(reason);
      port.close();
      here();
    }));
  } catch {
    here();
  }
  return {
    send(message, answer) {
      if (answer) current = { ask: message.ask, answer };
      port.post(message);
    },
    stop() {
      current = { ask: 0, answer: null };
      port.close();
    },
  };
}

/**
 * Starts an engine for each network, or for those that are named. The weights are fetched once per
 * page, but every lab has engines of its own: two labs never wait for each other's questions.
 * @param {(reason: string) => void} failed  called once if one fails after all have started; by
 *   then all are stopped
 * @returns {Promise<Object<string, Engine>>}  by the network's name
 */
export async function loadEngines(folder, version, engineScope, failed, names) {
  const file = await once("weights", () => fetchWeights(folder, version).then(readWeights));
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
