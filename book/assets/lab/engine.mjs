// One network and the queue of attacks on it: what runs in a Worker, or in the page without one.
//
// Messages in:   {load: {layers, numbers, shape}}       builds the network
//                {ask, x, tasks, wanted}                drops the queue and begins a new one, perhaps empty
//                {ask, wanted}                          this task first, of those that are left
// Messages out:  {ready: true}, {ask, task, found}, {error}

import { makeNetwork } from "./network.mjs";
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
 */
export function serve(port) {
  let model = null;
  let queue = { ask: 0, x: null, left: [], wanted: 0 };

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
      const attack = run(model, mine.x, task);
      let turn = attack.next();
      while (!turn.done) {
        if (performance.now() - since > BREATH) {
          await pause();
          if (queue !== mine) return;
          since = performance.now();
        }
        turn = attack.next();
      }
      // The page only draws it, and keeps hundreds.
      const picture = Float32Array.from(turn.value.picture);
      const found = { ...turn.value, picture };
      port.postMessage({ ask: mine.ask, task: task.place, found }, [picture.buffer]);
    }
  }

  port.onmessage = ({ data }) => {
    try {
      if (data.load) {
        const { layers, numbers, shape } = data.load;
        model = classifier(makeNetwork(layers, numbers, shape));
        port.postMessage({ ready: true });
      } else if (data.tasks) {
        queue = { ask: data.ask, x: data.x, left: [...data.tasks], wanted: data.wanted };
        work(queue).catch((error) => port.postMessage({ error: String(error) }));
      } else if (data.ask === queue.ask) {
        queue.wanted = data.wanted;
      }
    } catch (error) {
      port.postMessage({ error: String(error) });
    }
  };
}
