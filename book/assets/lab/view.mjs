// The parts of the page that the lab draws into: each made once, each with an `update`.

const SVG = "http://www.w3.org/2000/svg";

/** `h("p", {class: "x", onclick: f}, "text", child)` makes an element. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Writes a text only if it is new: a screen reader repeats a text that is written again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let count = 0;
/** Ids join labels to inputs; two labs on a page may not share any. */
export function uniqueId() {
  count += 1;
  const script = ((window.advlibLab ??= {}).ids = (window.advlibLab.ids ?? 0) + 1);
  return `advlib-lab-${script}-${count}`;
}

/** A share of 1 in per cent, never rounded up to certainty. */
export function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9 %";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

// ---------------------------------------------------------------- controls

/**
 * One of a few options, side by side.
 * @param {[string, string][]} options  value and text
 */
export function segments(legend, options, chosen, onchange, { wide = false } = {}) {
  const name = uniqueId();
  return h(
    "fieldset",
    { class: `advlib-control advlib-segments${wide ? " lab-wide" : ""}` },
    h("legend", {}, legend),
    h("div", {}, options.map(([value, text]) => h(
      "label",
      {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }),
      h("span", {}, text),
    ))),
  );
}

/** A slider with `stops` places; `text(place)` is the label of its value. */
export function slider(label, stops, at, text, oninput) {
  const id = uniqueId();
  const value = h("span", { class: "advlib-value" });
  const input = h("input", { type: "range", id, min: 0, max: stops - 1, step: 1, value: at });
  const update = () => {
    value.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", value.textContent);
  };
  input.addEventListener("input", () => {
    update();
    oninput(Number(input.value));
  });
  update();
  const element = h("div", { class: "advlib-control" }, h("label", { for: id }, label), input, value);
  return { element, input, update };
}

/** A list of classes to choose from. */
export function select(label, names, at, onchange) {
  const id = uniqueId();
  const list = h(
    "select",
    { id, onchange: () => onchange(Number(list.value)) },
    names.map((name, i) => h("option", { value: i, selected: i === at }, name)),
  );
  return { element: h("div", { class: "advlib-control" }, h("label", { for: id }, label), list), list };
}

/** The field for a file of the reader's own. */
export function ownImage(onfile) {
  const file = h("input", {
    type: "file",
    accept: "image/*",
    class: "lab-file",
    onchange: () => {
      if (file.files[0]) onfile(file.files[0]);
      file.value = ""; // the same file again is a change again
    },
  });
  return h("p", { class: "lab-upload" }, h("label", {}, file, h("span", {}, "or use your own")),
    h("span", { class: "advlib-note" }, "Or drop or paste it here. It stays in this page."));
}

// ---------------------------------------------------------------- images

/** A canvas of `side` pixels; `paint(value)` asks for each of its colour values, 0 to 255. */
export function screen(side, label) {
  const canvas = h("canvas", { width: side, height: side, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const data = context.createImageData(side, side);
  const levels = data.data.fill(255);
  return {
    canvas,
    paint(value) {
      for (let i = 0; i < side * side; i++) {
        for (let c = 0; c < 3; c++) levels[4 * i + c] = value(3 * i + c);
      }
      context.putImageData(data, 0, 0);
    },
  };
}

// ---------------------------------------------------------------- probabilities

/**
 * Probabilities as bars, `count` of them.
 * @param {string} label  what they are, for a screen reader
 */
export function bars(count, label) {
  const rows = Array.from({ length: count }, () => {
    const name = h("span", { class: "lab-class" }, "\u00a0"); // as high as with a name
    const bar = h("span", { class: "advlib-fill" });
    const value = h("span", { class: "advlib-value" });
    const element = h("li", { class: "lab-bar" }, name, value, h("span", { class: "advlib-track" }, bar));
    return { element, name, bar, value };
  });
  return {
    element: h("ul", { "aria-label": label }, rows.map((row) => row.element)),
    /** @param {{name: string, share: number, role: string}[]} items  one for each bar */
    update(items) {
      rows.forEach((row, i) => {
        const { name, share, role } = items[i];
        row.name.textContent = name;
        row.value.textContent = percent(share);
        row.bar.style.width = `${100 * share}%`;
        row.bar.className = `advlib-fill advlib-${role}`;
      });
    },
  };
}

/** The `count` most probable classes; if `y` is not among them, it takes the last place. */
export function mostProbable(probabilities, count, y) {
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const top = order.slice(0, count);
  if (!top.includes(y)) top[count - 1] = y;
  return top;
}

// ---------------------------------------------------------------- one network's column

const ROWS = 3;

/**
 * One network's view of the image: the image, its magnified change, the prediction, bars.
 * @param {string[]} classes
 * @param {number} factor  how much changes are magnified
 */
export function column(name, classes, side, factor) {
  const image = screen(side, `The image that the ${name.toLowerCase()} sees`);
  const change = screen(side, `The change, magnified ${factor} times`);
  const verdict = h("p", { class: "lab-verdict" });
  const rows = bars(ROWS, "Most probable classes");
  let share = "";
  const figure = (drawn, text) => h("figure", {}, drawn.canvas, h("figcaption", {}, text));
  const element = h(
    "section",
    { class: "lab-column", "aria-label": name },
    h("p", { class: "advlib-label" }, name),
    h("div", { class: "lab-screens" }, figure(image, "image"), figure(change, `change × ${factor}`)),
    verdict,
    rows.element,
  );

  return {
    element,
    /** Draws `found` over the clean `pixels` (0 to 255) of an image of class `y`. */
    update(found, pixels, y, role) {
      image.paint((i) => 255 * found.image[i]);
      change.paint((i) => 127.5 + factor * (255 * found.image[i] - pixels[i]));
      const best = mostProbable(found.probabilities, ROWS, y);
      verdict.textContent = `predicts ${classes[best[0]]}`;
      verdict.classList.toggle("lab-wrong", best[0] !== y);
      rows.update(best.map((i) => {
        return { name: classes[i], share: found.probabilities[i], role: i === y ? "clean" : role };
      }));
      share = percent(found.probabilities[best[0]]);
      return `${name}: predicts ${classes[best[0]]}, ${share}`;
    },
    stale: (is) => element.classList.toggle("lab-stale", is),
    /** What is drawn: the change, and the image with what is said of it. */
    shown: () => ({ image: image.canvas, change: change.canvas, lines: [verdict.textContent, share] }),
  };
}

// ---------------------------------------------------------------- the loss

const WIDE = 480, HIGH = 190, LEFT = 40, BOTTOM = 30, TOP = 10, RIGHT = 12;

/** A curve of the loss for each network; the two differ in their dashes as well. */
export function chart(names) {
  const grid = svg("g");
  const here = svg("line", { class: "advlib-here", y1: TOP, y2: HIGH - BOTTOM });
  const curves = Object.keys(names).map((key) => svg("polyline", { class: `lab-${key}` }));
  const ends = Object.keys(names).map((key) => svg("circle", { class: `lab-${key}`, r: 4 }));
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" },
    grid, here, curves, ends,
  );
  const title = h("p", { class: "advlib-label" });
  const axis = h("p", { class: "advlib-axis" });
  const legend = h("p", { class: "advlib-legend" }, Object.entries(names).map(([key, name]) => h(
    "span",
    {},
    svg("svg", { class: "advlib-swatch", viewBox: "0 0 24 8", "aria-hidden": "true" },
      svg("polyline", { class: `lab-${key}`, points: "0,4 24,4" })),
    name,
  )));
  const element = h("div", { class: "advlib-chart" }, title, legend, drawing, axis);

  function drawGrid(across, up, tick) {
    const marks = [0, up.top / 2, up.top].map((value) => [
      svg("line", { class: "advlib-grid", x1: LEFT, x2: WIDE - RIGHT, y1: up(value), y2: up(value) }),
      svg("text", { x: LEFT - 6, y: up(value) + 4, "text-anchor": "end" }, String(value)),
    ]);
    const step = Math.ceil(across.last / 5);
    for (let i = 0; i <= across.last; i += step) {
      marks.push(svg("text", { x: across(i), y: HIGH - BOTTOM + 17, "text-anchor": "middle" }, tick(i)));
    }
    grid.replaceChildren(...marks.flat());
  }

  return {
    element,
    /**
     * @param {(number | undefined)[][]} lines  a loss for each place, or nothing where none is known
     * @param {object} text  title, axis, tick(place)
     * @param {number} at  the place that is marked
     */
    update(lines, text, at) {
      const known = lines.flat().filter((value) => value !== undefined);
      const last = Math.max(...lines.map((line) => line.length - 1), 1);
      const top = [2, 4, 6, 10, 20, 40, 100].find((t) => t >= Math.max(...known)) ?? 1000;
      const across = (i) => LEFT + ((WIDE - LEFT - RIGHT) * i) / last;
      const up = (value) => HIGH - BOTTOM - ((HIGH - BOTTOM - TOP) * Math.min(value, top)) / top;
      drawGrid(Object.assign(across, { last }), Object.assign(up, { top }), text.tick);
      here.setAttribute("x1", across(at));
      here.setAttribute("x2", across(at));
      lines.forEach((line, n) => {
        const points = line.flatMap((value, i) => (value === undefined ? [] : [`${across(i)},${up(value)}`]));
        curves[n].setAttribute("points", points.join(" "));
        const marked = line[Math.min(at, line.length - 1)];
        ends[n].toggleAttribute("hidden", marked === undefined);
        ends[n].setAttribute("cx", across(Math.min(at, line.length - 1)));
        ends[n].setAttribute("cy", up(marked ?? 0));
      });
      title.textContent = text.title;
      axis.textContent = text.axis;
      const said = lines.map((line, n) => {
        const ends = [line[0], line[line.length - 1]].map((value) => value?.toFixed(2) ?? "unknown");
        return `${Object.values(names)[n]} from ${ends[0]} to ${ends[1]}`;
      });
      drawing.setAttribute("aria-label", `${text.title}: ${said.join(", ")}`);
    },
  };
}

// ---------------------------------------------------------------- when it begins

/**
 * Calls back when the page has loaded and `element` is in view, or when it is touched before. A
 * reader who saves data is asked to touch it.
 */
export function whenLookedAt(element, callback) {
  const events = ["pointerdown", "focusin"];
  const go = () => {
    watch?.disconnect();
    for (const event of events) element.removeEventListener(event, go);
    callback();
  };
  const early = typeof IntersectionObserver === "function" && !navigator.connection?.saveData;
  const watch = early
    ? new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && go())
    : null;
  for (const event of events) element.addEventListener(event, go);
  if (document.readyState === "complete") watch?.observe(element);
  else window.addEventListener("load", () => watch?.observe(element));
}
