// What the lab fetches, and the engines that run it. Everything is fetched once per page, however
// many labs it has, and only when a lab is looked at or touched.

/** A file that cannot be fetched or is not whole; its message is a sentence for the reader. */
export class LoadError extends Error {}

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
    const done = (value) => {
      script.remove();
      if (value === undefined) reject(new LoadError("The file did not arrive."));
      else resolve(value);
    };
    script.onload = () => done(window.advlibLab?.[name]);
    script.onerror = () => done(undefined);
    script.src = `${folder}${name}.js${version}`;
    document.head.append(script);
  });
}

/** Base64 to bytes. */
export function base64Bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function fetchWeights(folder, version) {
  // A page opened from disk may not fetch, so there the same file comes as a script.
  if (location.protocol === "file:") return base64Bytes(await loadScript(folder, version, "weights")).buffer;
  const answer = await fetch(`${folder}weights.bin${version}`).catch(() => {
    throw new LoadError("The server could not be reached.");
  });
  if (!answer.ok) throw new LoadError(`The server answered ${answer.status}.`);
  return answer.arrayBuffer().catch(() => {
    throw new LoadError("The connection broke off.");
  });
}

/**
 * Takes the weights file apart; book/lab.py says how it is laid out.
 * @param {ArrayBuffer} file
 * @returns {{networks: Object<string, object[]>, numbers: Float32Array, shape: number[]}}
 */
export function readWeights(file) {
  const broken = () => new LoadError("The file of weights is not whole.");
  try {
    const length = new DataView(file).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 4, length)));
    const numbers = new Float32Array(file, 4 + length);
    if (numbers.length !== header.numbers || !numbers.every(Number.isFinite)) throw broken();
    return { ...header, numbers };
  } catch {
    throw broken();
  }
}

/** The pictures to choose from: all their bytes, one picture after the other. */
export function loadPictures(folder, version) {
  return once("pictures", async () => base64Bytes(await loadScript(folder, version, "pictures")));
}

/**
 * A port to an engine in a Worker. Without Worker, or where a policy forbids it, the page computes
 * by itself, through the same messages. `ready(port)` is called again if the first port fails before
 * it has said anything; if it fails later, `broken` is.
 */
function openPort(engineScope, onmessage, ready, broken) {
  const here = () => {
    const { port1, port2 } = new MessageChannel();
    engineScope(port1);
    port2.onmessage = onmessage;
    ready(port2);
  };
  try {
    const source = `"use strict";(${engineScope})(self);`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    worker.onerror = here; // a Worker that is forbidden may say so only now
    worker.onmessage = (message) => {
      worker.onerror = (event) => broken(event.message || "its worker ended");
      onmessage(message);
    };
    ready(worker);
  } catch {
    here();
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
 * Starts an engine.
 * @param {(reason: string) => void} failed  called if it stops working after it has started
 * @returns {Promise<Engine>}  when its network is built
 */
function startEngine(engineScope, load, failed) {
  return new Promise((resolve, reject) => {
    let port = null;
    let current = { ask: 0, answer: null };
    const send = (message, answer) => {
      if (answer) current = { ask: message.ask, answer };
      port.postMessage(message);
    };
    const stop = () => {
      current = { ask: 0, answer: null };
      (port.terminate ?? port.close).call(port);
    };
    const broken = (reason) => {
      reject(new LoadError(`The network could not run: ${reason}.`)); // has an effect at the start only
      failed(reason);
    };
    const receive = ({ data }) => {
      if (data.ready) resolve({ send, stop });
      else if (data.error) broken(data.error);
      else if (data.ask === current.ask) current.answer(data.task, data.found);
    };
    const opened = (open) => {
      port = open;
      port.postMessage({ load });
    };
    openPort(engineScope, receive, opened, broken);
  });
}

/**
 * Starts an engine for each network, or for those that are named. The weights are fetched once per
 * page, but every lab has engines of its own: two labs never wait for each other's questions.
 * @param {(reason: string) => void} failed  called if one stops working after it has started
 * @returns {Promise<Object<string, Engine>>}  by the network's name
 */
export async function loadEngines(folder, version, engineScope, failed, names) {
  const file = await once("weights", () => fetchWeights(folder, version).then(readWeights));
  const { networks, numbers, shape } = file;
  let running = false;
  const late = (reason) => running && failed(reason);
  const started = (names ?? Object.keys(networks)).map(async (name) => {
    return [name, await startEngine(engineScope, { layers: networks[name], numbers, shape }, late)];
  });
  const engines = Object.fromEntries(await Promise.all(started));
  running = true;
  return engines;
}
