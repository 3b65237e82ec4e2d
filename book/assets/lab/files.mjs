// Fetching the files of a lab. Each is fetched once per page, however many labs it has.

/** A file that cannot be fetched or is not whole; its message is a sentence for the reader. */
export class LoadError extends Error {}

export const notWhole = (what) => new LoadError(`The file of ${what} is incomplete.`);

/** What went wrong, as a sentence. An unexpected error goes to the console. */
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
export function once(name, make) {
  if (!shared.has(name)) {
    const promise = make();
    promise.catch(() => shared.delete(name));
    shared.set(name, promise);
  }
  return shared.get(name);
}

/** Runs a script that leaves its value in `window.advlibLab[name]`: this works from disk, too. */
export function loadScript(folder, version, name) {
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

export async function scriptBytes(folder, version, name) {
  const base64 = await loadScript(folder, version, name);
  try {
    return base64Bytes(base64);
  } catch {
    throw notWhole(name);
  }
}

/**
 * Fetches the file `name`.bin. A page opened from disk may not fetch, so there it comes as a script.
 * @param {{progress?: (bytes: number) => void, signal?: AbortSignal}} options  how much has arrived is
 *   said again and again; the signal ends it, with an error whose name is "AbortError"
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchFile(folder, version, name, { progress, signal } = {}) {
  if (location.protocol === "file:") return (await scriptBytes(folder, version, name)).buffer;
  const control = new AbortController();
  const stop = () => control.abort();
  signal?.throwIfAborted();
  signal?.addEventListener("abort", stop);
  let failure = "The server could not be reached.";
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(stop, STALLED);
  };
  try {
    wait();
    const answer = await fetch(`${folder}${name}.bin${version}`, { signal: control.signal });
    failure = "The connection broke off.";
    if (answer.ok) return await wholeBody(answer, wait, progress);
    failure = `The server answered ${answer.status}.`;
  } catch {
    signal?.throwIfAborted();
    if (control.signal.aborted) failure = `The server has sent nothing for ${STALLED / 1000} seconds.`;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
  throw new LoadError(failure);
}

/** The bytes of an answer; `arrived` is called for each piece, and `progress` with how many there are. */
async function wholeBody(answer, arrived, progress) {
  const pieces = [];
  let bytes = 0;
  const reader = answer.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    arrived();
    bytes += piece.value.length;
    progress?.(bytes);
  }
  return new Blob(pieces).arrayBuffer();
}
