// Where an engine runs: in a Worker, or in the page where there is none.

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
 * @property {(message: object, answer?: function) => void} send  `answer(place, found, point)` gets
 *   each result of the message's ask, and each point of a watched path, until the next ask
 * @property {() => void} stop  ends it
 */

/**
 * Starts an engine in a Worker, or in the page where there is none or a policy forbids it.
 * @param {object} load  what the network is built of
 * @param {(about: object) => void} ready  called when it is built, with what there is to say about the
 *   network and whether it is `apart`, in a Worker
 * @param {(reason: string) => void} failed  called if it stops working, before that or later
 * @returns {Engine}
 */
export function startEngine(engineScope, load, ready, failed) {
  let port = null;
  let apart = false;
  let current = { ask: 0, answer: null };
  const receive = ({ data }) => {
    if (data.ready) ready({ ...data.ready, apart });
    else if (data.error) failed(data.error);
    else if (data.ask === current.ask) current.answer(data.task, data.found, data.point);
  };
  const open = (opened, inWorker) => {
    port = opened;
    apart = inWorker;
    port.post({ load });
  };
  const here = () => open(openHere(engineScope, receive), false);
  try {
    open(openWorker(engineScope, receive, (reason, silent) => {
      if (!silent) return failed(reason);
      port.close();
      here();
    }), true);
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
