// One network and the queue of attacks on it: what runs in a Worker, or in the page without one.
//
// Messages in:   {load}                   builds the network, from what its `open` is given
//                {ask, x, tasks, wanted}  drops the queue and begins a new one, perhaps empty
//                {ask, wanted}            this task first, of those that are left
// Messages out:  {ready}                  what there is to say about the network
//                {ask, task, found}
//                {ask, task, point}       on the way there, if the task is `watched`
//                {error}

import { classifier, run } from "./attacks.mjs";

/** How long the engine works before it looks for messages, in milliseconds. */
const BREATH = 12;

/** Lets waiting messages, and in a page the reader's clicks, come first. */
function pause() {
  return new Promise((resume) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resume();
    };
    channel.port2.postMessage(null);
  });
}

/**
 * Answers the messages that come through a port, a Worker's own or one end of a channel.
 * @param {{onmessage: ?function, postMessage: function}} port
 * @param {(load: object) => Promise<{network: import("./layers.mjs").Layer, about: object, attack?: typeof run}>} open
 *   builds the network; what attacks it is `run` unless `attack` is another
 */
export function serve(port, open) {
  let model = null;
  let attackWith = run;
  let queue = { ask: 0, x: null, left: [], wanted: 0 };
  const fail = (error) => port.postMessage({ error: String(error) });

  async function load(described) {
    const { network, about, attack } = await open(described);
    model = classifier(network);
    attackWith = attack ?? run;
    port.postMessage({ ready: about });
  }

  /** The task nearest to the wanted one: a slider is most likely to go there next. */
  function next() {
    const distance = (place) => Math.abs(queue.left[place].place - queue.wanted);
    let nearest = 0;
    for (let i = 1; i < queue.left.length; i++) if (distance(i) < distance(nearest)) nearest = i;
    return queue.left.splice(nearest, 1)[0];
  }

  async function work(mine) {
    let since = performance.now();
    while (queue === mine && mine.left.length) {
      const task = next();
      const attack = attackWith(model, mine.x, task);
      // The page only draws an image, and keeps hundreds.
      const send = (kind, value) => {
        const image = new Float32Array(value.image);
        port.postMessage({ ask: mine.ask, task: task.place, [kind]: { ...value, image } }, [image.buffer]);
      };
      let turn = attack.next();
      while (!turn.done) {
        if (task.watched && turn.value) send("point", turn.value);
        if (performance.now() - since > BREATH) {
          await pause();
          if (queue !== mine) return;
          since = performance.now();
        }
        turn = attack.next();
      }
      send("found", turn.value);
    }
  }

  port.onmessage = ({ data }) => {
    try {
      if (data.load) {
        load(data.load).catch(fail);
      } else if (data.tasks) {
        queue = { ask: data.ask, x: data.x, left: [...data.tasks], wanted: data.wanted };
        work(queue).catch(fail);
      } else if (data.ask === queue.ask) {
        queue.wanted = data.wanted;
      }
    } catch (error) {
      fail(error);
    }
  };
}
