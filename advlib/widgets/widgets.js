// The explorers, guesses and quizzes, drawn from plain data.
//
// One source for every place: anywidget loads this file as a module in JupyterLab, VS Code and Colab;
// the book serves it as a classic script (the last line replaced), because a page opened from
// file:// may not load modules. Hence it imports nothing; and without eval, innerHTML and style
// attributes it runs under a strict Content-Security-Policy. progress.js is joined in front of it.

// ---------------------------------------------------------------- small tools

// h("p", {class: "x", onclick: f}, "text", child) makes an element.
function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (value === true) el.setAttribute(name, "");
    else if (value !== false && value != null) el.setAttribute(name, value);
  }
  el.append(...children.flat().filter((child) => child != null));
  return el;
}

// Text of the lesson: `code`, **strong** and *emphasis*; everything else is plain text.
function rich(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*\s][^*]*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return h("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return h("strong", {}, part.slice(2, -2));
    if (/^\*.+\*$/.test(part)) return h("em", {}, part.slice(1, -1));
    return part;
  });
}

// Ids link labels to inputs; the counter is on window because anywidget loads this file per widget.
function uid() {
  window.advlibIds = (window.advlibIds ?? 0) + 1;
  return `advlib-${window.advlibIds}`;
}

function button(text, onclick, props = {}) {
  return h("button", { type: "button", class: "advlib-button", onclick, ...props }, text);
}

// ---------------------------------------------------------------- explorer

function explorer({ model, el }) {
  const data = model.get("data");
  const at = [...data.initial];
  const alone = Object.keys(data.states).length === 1;
  const scene = sceneView();
  const status = h("p", { class: "advlib-status", role: "status" });
  const ask = asker(model, data, status, scene);

  function show() {
    const stored = data.states[at.join(",")];
    if (stored) {
      ask.cancel();
      scene.draw(stored, data);
    } else ask.now(at);
  }

  const title = uid();
  const about = uid();
  const views = data.controls.map((control, place) =>
    controlView(control, {
      start: at[place],
      offered: model.offline ? control.stored : control.labels.map((_, index) => index),
      disabled: model.offline && alone,
      changed(index) {
        at[place] = index;
        show();
      },
    }));
  el.append(
    h("div", { role: "group", "aria-labelledby": title, "aria-describedby": about },
      h("p", { class: "advlib-title", id: title }, data.title),
      h("p", { class: "advlib-hidden", id: about }, data.alt),
      h("div", { class: "advlib-controls" }, views),
      scene.el,
      status),
  );
  show();
  if (data.drag) draggable(scene.el.querySelector("img"), data.drag, views.filter((view) => view.move));
  if (model.offline && alone && data.controls.length && data.images) {
    status.textContent = "This page holds one state only: run the notebook to move the controls.";
  }
  return ask.stop;
}

// Who drags in the image moves the sliders to the nearest of these places: [x, y, position, ...].
function draggable(img, places, sliders) {
  function move(event) {
    if (!event.buttons) return;
    const box = img.getBoundingClientRect();
    const distance = ([x, y]) =>
      Math.hypot(event.clientX - box.x - x * box.width, event.clientY - box.y - y * box.height);
    const [, , ...at] = places.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    sliders.forEach((slider, i) => slider.move(at[i]));
  }
  img.draggable = false; // else the browser carries the image away
  img.classList.add("advlib-drag");
  img.addEventListener("pointermove", move);
  img.addEventListener("pointerdown", (event) => {
    img.setPointerCapture(event.pointerId);
    move(event);
  });
}

// Asks the kernel for states that are not stored. At most one request is under way, and only the
// newest of those that come meanwhile is sent next, so a dragged slider never builds a queue.
function asker(model, data, status, scene) {
  const view = `${uid()}-${Math.random().toString(36).slice(2)}`; // another tab may share the kernel
  let sent = 0;
  let flying = false;
  let wanted = null;
  let timer = 0;
  let cancelled = false; // the reader has moved on to a stored state

  function send() {
    const positions = Object.fromEntries(data.controls.map((c, i) => [c.name, wanted[i]]));
    flying = true;
    wanted = null;
    sent += 1;
    status.textContent = "Computing …";
    clearTimeout(timer);
    timer = setTimeout(() => {
      flying = false;
      status.textContent = "No answer yet. Is the kernel running? Running this cell connects it.";
    }, 20000);
    model.send({ ask: `${view}:${sent}`, at: positions });
  }

  function receive(message) {
    if (message.answer !== `${view}:${sent}`) return; // for another view, or outdated
    clearTimeout(timer);
    flying = false;
    if (wanted) return send();
    status.textContent = "";
    if (cancelled) return;
    if (message.error !== undefined) scene.fail(message.error);
    else scene.draw(message.scene, {});
  }

  if (!model.offline) model.on("msg:custom", receive);
  return {
    now(at) {
      cancelled = false;
      wanted = [...at];
      if (!flying) send();
    },
    cancel() {
      cancelled = true;
      wanted = null;
      if (!flying) status.textContent = "";
    },
    stop() {
      clearTimeout(timer);
      if (!model.offline) model.off("msg:custom", receive);
    },
  };
}

function controlView(control, { start, offered, disabled, changed }) {
  const few = control.labels.join("").length <= 48;
  if (control.kind === "slider") return sliderView(control, start, offered, disabled, changed);
  return (few ? radioView : selectView)(control, start, offered, disabled, changed);
}

function sliderView(control, start, offered, disabled, changed) {
  const id = uid();
  const output = h("span", { class: "advlib-value", "aria-hidden": "true" }); // see aria-valuetext
  const input = h("input", {
    type: "range", id, min: 0, max: offered.length - 1, step: 1, disabled,
    oninput: () => {
      write();
      changed(offered[input.value]);
    },
  });
  function write() {
    output.textContent = control.labels[offered[input.value]];
    input.setAttribute("aria-valuetext", output.textContent);
  }
  input.value = offered.indexOf(start);
  write();
  const view = h("div", { class: "advlib-control" }, h("label", { for: id }, control.label), input, output);
  view.move = (index) => {
    if (offered[input.value] === index) return;
    input.value = offered.indexOf(index);
    input.dispatchEvent(new Event("input"));
  };
  return view;
}

function radioView(control, start, offered, disabled, changed) {
  const name = uid();
  const options = offered.map((index) => {
    const input = h("input", {
      type: "radio", name, disabled, checked: index === start, onchange: () => changed(index),
    });
    return h("label", {}, input, h("span", {}, control.labels[index]));
  });
  return h("fieldset", { class: "advlib-control advlib-segments" },
    h("legend", {}, control.label), h("div", {}, options));
}

function selectView(control, start, offered, disabled, changed) {
  const id = uid();
  const input = h("select", { id, disabled, onchange: () => changed(offered[input.selectedIndex]) },
    offered.map((index) => h("option", { selected: index === start }, control.labels[index])));
  return h("div", { class: "advlib-control" }, h("label", { for: id }, control.label), input);
}

// ---------------------------------------------------------------- scene

// Elements are kept and refilled: images do not flicker, bars glide.
function sceneView() {
  const images = h("div", { class: "advlib-images" });
  const bars = h("div", { class: "advlib-bars" });
  const lines = h("div", { class: "advlib-lines" });
  const text = h("p", { class: "advlib-text", "aria-live": "polite" });
  const error = h("p", { class: "advlib-error", role: "alert", hidden: true });
  // The lines next to the controls: a phone shows both.
  const el = h("div", { class: "advlib-scene" }, error, images, lines, bars, text);
  return {
    el,
    draw(scene, { images: urls, series }) {
      error.hidden = true;
      el.classList.remove("advlib-stale");
      images.dataset.count = scene.images.length;
      refill(images, scene.images, figure, (view, item) => fillFigure(view, item, urls));
      lines.replaceChildren(...scene.lines.map((spec) => chart(spec, series)));
      refill(bars, scene.bars, barGroup, fillBarGroup);
      text.replaceChildren(...rich(scene.text));
    },
    fail(message) {
      el.classList.add("advlib-stale"); // the old state is dimmed: it is not the result
      error.textContent = message;
      error.hidden = false;
    },
  };
}

function refill(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastChild.remove();
  while (parent.children.length < items.length) parent.append(make());
  items.forEach((item, index) => fill(parent.children[index], item));
}

function figure() {
  return h("figure", {}, h("p", { class: "advlib-label" }), h("img", {}), h("figcaption"));
}

function fillFigure(view, item, table) {
  const [label, img, caption] = view.children;
  label.textContent = item.title;
  img.width = item.width;
  img.height = item.height;
  img.alt = item.alt;
  img.classList.toggle("advlib-pixels", Math.max(item.width, item.height) <= 128);
  const src = typeof item.src !== "number" ? item.src : table ? table[item.src] : blank(item);
  if (img.src !== src) img.src = src;
  caption.replaceChildren(...rich(item.caption));
}

// Holds the place of an image that a page has not loaded yet.
function blank({ width, height }) {
  const size = `width="${width}" height="${height}"`;
  return `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" ${size}/>`)}`;
}

function barGroup() {
  return h("div", {}, h("p", { class: "advlib-label" }), h("ul"));
}

function fillBarGroup(view, group) {
  const [label, list] = view.children;
  label.textContent = group.title;
  label.hidden = !group.title;
  refill(list, group.bars, bar, (row, item) => {
    const [name, track, value] = row.children;
    name.textContent = item.label;
    track.firstChild.className = `advlib-fill advlib-${item.role}`;
    track.firstChild.style.width = `${100 * item.value}%`;
    value.textContent = item.text;
  });
}

function bar() {
  return h("li", { class: "advlib-bar" }, h("span", { class: "advlib-name" }),
    h("span", { class: "advlib-track", "aria-hidden": "true" }, h("span")),
    h("span", { class: "advlib-value" }));
}

// ---------------------------------------------------------------- line chart

const BOX = { left: 46, right: 350, top: 10, bottom: 150 };

function svg(tag, props, ...children) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) el.setAttribute(name, value);
  el.append(...children);
  return el;
}

// About four round numbers between low and high.
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

function scale([low, high], from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

const span = (values) => [Math.min(...values), Math.max(...values)];

function chart(spec, table) {
  const lines = spec.series.map((s) => table?.[s] ?? s);
  const xs = span(lines.flatMap((s) => s.x));
  const ys = spec.ylim ?? span(lines.flatMap((s) => s.y));
  const x = scale(xs, BOX.left, BOX.right);
  const y = scale(ys, BOX.bottom, BOX.top);
  const drawing = svg("svg", { viewBox: "0 0 360 186", role: "img", "aria-label": spec.alt });
  for (const tick of ticks(...ys)) {
    drawing.append(
      svg("line", { class: "advlib-grid", x1: BOX.left, x2: BOX.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: BOX.left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, tick));
  }
  for (const tick of ticks(...xs)) {
    drawing.append(svg("text", { x: x(tick), y: BOX.bottom + 14, "text-anchor": "middle" }, tick));
  }
  drawing.append(
    svg("text", { x: (BOX.left + BOX.right) / 2, y: 182, "text-anchor": "middle" }, spec.xlabel));
  if (spec.at !== null) {
    drawing.append(
      svg("line", { class: "advlib-here", x1: x(spec.at), x2: x(spec.at), y1: BOX.top, y2: BOX.bottom }));
  }
  for (const line of lines) {
    const points = line.x.map((value, i) => `${x(value).toFixed(1)},${y(line.y[i]).toFixed(1)}`);
    drawing.append(svg("polyline", { class: `advlib-${line.role}`, points: points.join(" ") }));
  }
  const legend = lines.map((line) =>
    h("span", {}, svg("svg", { viewBox: "0 0 24 8", class: "advlib-swatch", "aria-hidden": "true" },
      svg("polyline", { class: `advlib-${line.role}`, points: "0,4 24,4" })), line.label));
  return h("div", { class: "advlib-chart" },
    spec.title ? h("p", { class: "advlib-label" }, spec.title) : null,
    h("p", { class: "advlib-axis" }, spec.ylabel), drawing, h("p", { class: "advlib-legend" }, legend));
}

// ---------------------------------------------------------------- guess, lock, answer

const withUnit = (number, value) =>
  `${number.unit ? `${Number(value)} ${number.unit}` : Number(value)}`;

const wording = (data, value) =>
  data.number ? withUnit(data.number, value) : data.options[value];

// Storage can hold anything; what does not fit the question counts as no guess.
const isPlace = (list, value) => Number.isInteger(value) && value in list;

function asGuess(data, value) {
  const fits = data.number ? Number.isFinite(value) : isPlace(data.options, value);
  return fits ? value : null;
}

const keptGuess = (data) => asGuess(data, progress.get(data.key));

// The guess may come from the kernel's model or from this browser; null: not locked yet.
const lockedGuess = (model, data) => asGuess(data, model.get("guess")) ?? keptGuess(data);

function predict({ model, el }) {
  const data = model.get("data");
  const body = h("div", { class: "advlib-body" });
  const id = uid();

  function tellKernel(guess) {
    if (model.get("guess") === guess) return;
    model.set("guess", guess);
    model.save_changes();
  }

  const keep = (value) => progress.set(data.key, value); // progress.watch below draws it

  function draw(focus) {
    const guess = lockedGuess(model, data);
    body.replaceChildren(...(guess === null ? openGuess(data, id, keep) : lockedView(guess)));
    if (focus) body.querySelector("[tabindex], input")?.focus();
  }

  function lockedView(guess) {
    const again = button("Guess again", () => keep(null), { class: "advlib-link" });
    const shown = data.answer === null
      ? [h("p", { tabindex: -1 }, "Locked; the answer follows below. Your guess: ",
        h("strong", {}, wording(data, guess)))]
      : verdict(data, guess);
    return [...shown, again];
  }

  // A guess found in the browser goes to the kernel too, so that Python can use it.
  if (model.get("guess") == null) tellKernel(keptGuess(data));
  el.append(h("div", { role: "group", "aria-labelledby": id, "data-advlib-question": data.key },
    h("p", { class: "advlib-kicker" }, "Predict"),
    h("p", { class: "advlib-title", id }, rich(data.question)), body));
  draw(false);
  return progress.watch(data.key, () => {
    tellKernel(keptGuess(data));
    draw(el.contains(document.activeElement));
  });
}

function openGuess(data, id, keep) {
  let value = null;
  const why = h("span", { class: "advlib-note", id: uid() },
    data.number ? "Move the slider first." : "Choose an option first.");
  const lock = button("Lock my guess", () => keep(value), { disabled: true, "aria-describedby": why.id });
  const pick = (chosen) => {
    value = chosen;
    lock.disabled = false;
    why.hidden = true;
    lock.removeAttribute("aria-describedby");
  };
  const field = data.number ? numberField(data.number, id, pick) : optionField(data.options, id, pick);
  return [field, h("div", { class: "advlib-lock" }, lock, why)];
}

function numberField(number, labelledby, pick) {
  const output = h("span", { class: "advlib-value", "aria-hidden": "true" }, withUnit(number, number.initial));
  const input = h("input", {
    type: "range", min: number.low, max: number.high, step: number.step, "aria-labelledby": labelledby,
    "aria-valuetext": output.textContent,
    oninput: () => {
      output.textContent = withUnit(number, input.value);
      input.setAttribute("aria-valuetext", output.textContent);
      pick(Number(input.value));
    },
  });
  input.value = number.initial;
  return h("div", { class: "advlib-control" }, input, output);
}

function optionField(options, labelledby, pick) {
  const name = uid();
  return h("div", { class: "advlib-options", role: "radiogroup", "aria-labelledby": labelledby },
    options.map((text, index) =>
      h("label", {}, h("input", { type: "radio", name, onchange: () => pick(index) }),
        h("span", {}, rich(text)))));
}

// Guess and answer side by side, then the explanation.
function verdict(data, guess) {
  const pair = h("dl", { class: "advlib-verdict", tabindex: -1 },
    h("div", {}, h("dt", {}, "Your guess"), h("dd", {}, rich(wording(data, guess)))),
    h("div", {}, h("dt", {}, "Answer"), h("dd", {}, rich(wording(data, data.answer)))));
  const shown = [pair];
  if (data.number) shown.push(distance(data.number, guess, data.answer));
  if (data.explanation) shown.push(h("p", { class: "advlib-why" }, rich(data.explanation)));
  return shown;
}

function distance(number, guess, answer) {
  const place = scale([number.low, number.high], 8, 352);
  const inside = (value) => Math.min(352, Math.max(8, place(value)));
  return svg("svg", { viewBox: "0 0 360 24", class: "advlib-distance", "aria-hidden": "true" },
    svg("line", { class: "advlib-grid", x1: 8, x2: 352, y1: 12, y2: 12 }),
    svg("line", { class: "advlib-gap", x1: inside(guess), x2: inside(answer), y1: 12, y2: 12 }),
    svg("circle", { class: "advlib-guess", cx: inside(guess), cy: 12, r: 5 }),
    svg("circle", { class: "advlib-answer", cx: inside(answer), cy: 12, r: 6 }));
}

function reveal({ model, el }) {
  const data = model.get("data");
  const body = h("div", { class: "advlib-body", "aria-live": "polite" });

  function draw() {
    const guess = lockedGuess(model, data);
    body.replaceChildren(...(guess === null ? folded() : verdict(data, guess)));
  }

  function folded() {
    const question = document.querySelector(`[data-advlib-question="${data.key}"]`);
    const go = button("Go to the question", () => {
      question.scrollIntoView({ block: "center" });
      question.querySelector("input")?.focus({ preventScroll: true });
    });
    return [h("p", {}, "Folded: lock your guess first, then the answer shows here."),
      question ? go : null].filter(Boolean);
  }

  el.append(h("div", { role: "group", "aria-label": `Answer: ${data.question}` },
    h("p", { class: "advlib-kicker" }, "Answer"),
    h("p", { class: "advlib-title" }, rich(data.question)), body));
  draw();
  // "Guess again" clears the browser's copy before the kernel's: follow the browser.
  const unwatch = progress.watch(data.key, () => {
    if (model.get("guess") !== keptGuess(data)) model.set("guess", keptGuess(data));
    draw();
  });
  model.on("change:guess", draw);
  return () => {
    unwatch();
    model.off("change:guess", draw);
  };
}

// ---------------------------------------------------------------- quiz

// The stored answers to a quiz of this page or another, by the question's number.
function keptAnswers(key, page) {
  const kept = progress.get(key, page);
  return kept && typeof kept === "object" && !Array.isArray(kept) ? kept : {};
}

function quiz({ model, el }) {
  const data = model.get("data");
  const list = h("ol", { class: "advlib-quiz" });
  const score = h("p", { class: "advlib-score", role: "status" });
  const again = button("Clear my answers", () => progress.set(data.key, null), { class: "advlib-link" });
  let kept;
  let marks;

  // Another tab may have answered meanwhile, so the stored answers are read again.
  function mark(index, given, isRight) {
    marks[index] = isRight;
    kept = { ...keptAnswers(data.key), [index]: given };
    progress.set(data.key, kept);
    tell();
  }

  function tell() {
    const checked = marks.filter((one) => one !== null).length;
    const rights = marks.filter(Boolean).length;
    score.textContent = checked ? `${rights} of ${marks.length} right` : "";
    if (checked && checked < marks.length) score.textContent += ` (${checked} checked)`;
    again.hidden = !checked;
  }

  function draw() {
    kept = keptAnswers(data.key);
    marks = data.questions.map(() => null);
    list.replaceChildren(...data.questions.map((item, index) =>
      h("li", {}, question(item, `${index + 1}. `, kept[index], {
        restored: (isRight) => (marks[index] = isRight),
        checked: (given, isRight) => mark(index, given, isRight),
      }))));
    tell();
  }

  const title = uid();
  el.append(h("div", { role: "group", "aria-labelledby": title },
    h("p", { class: "advlib-kicker" }, "Quiz"), h("p", { class: "advlib-title", id: title }, data.title),
    list, score, again));
  draw();
  return progress.watch(data.key, () => {
    if (JSON.stringify(keptAnswers(data.key)) === JSON.stringify(kept)) return; // marked just now
    const inside = el.contains(document.activeElement);
    draw();
    if (inside) list.querySelector("input").focus();
  });
}

// One question; an answer from an earlier visit is filled in and marked again.
function question(item, number, before, { restored, checked }) {
  const field = item.kind === "numeric" ? numericField(item) : choiceField(item);
  const feedback = h("div", { class: "advlib-feedback", "aria-live": "polite" });

  function judge(given) {
    const { ok, notes } = field.judge(given);
    const word = ok ? "Right." : "Not yet.";
    feedback.replaceChildren(h("p", { class: ok ? "advlib-right" : "advlib-wrong" },
      h("strong", {}, word), notes.length ? " " : "", rich(notes[0] ?? "")),
      ...notes.slice(1).map((note) => h("p", {}, rich(note))));
    return ok;
  }

  function check() {
    const given = field.given();
    if (given === null) feedback.replaceChildren(h("p", {}, field.empty));
    else checked(given, judge(given));
  }

  if (field.fits(before)) {
    field.fill(before);
    restored(judge(before));
  }
  return h("form", { onsubmit: (event) => { event.preventDefault(); check(); } },
    h("fieldset", {}, h("legend", {}, number, rich(item.prompt)), field.el),
    h("button", { class: "advlib-button" }, "Check"), feedback);
}

function choiceField(item) {
  const name = uid();
  const type = item.kind === "single" ? "radio" : "checkbox";
  const inputs = item.options.map(() => h("input", { type, name }));
  const rows = item.options.map((option, i) =>
    h("label", {}, inputs[i], h("span", {}, rich(option.text))));
  return {
    el: h("div", { class: "advlib-options" }, rows,
      type === "checkbox" ? h("p", { class: "advlib-note" }, "Tick all that are true.") : null),
    empty: type === "radio" ? "Choose an option first." : "Tick at least one option first.",
    given() {
      const chosen = inputs.flatMap((input, i) => (input.checked ? [i] : []));
      return chosen.length ? chosen : null;
    },
    fits: (chosen) => Array.isArray(chosen) && chosen.length > 0
      && (type === "checkbox" || chosen.length === 1) && chosen.every((i) => isPlace(item.options, i)),
    fill: (chosen) => chosen.forEach((i) => (inputs[i].checked = true)),
    judge: (chosen) => judgeChoice(item, chosen),
  };
}

function judgeChoice(item, chosen) {
  const missed = item.options.filter((option, i) => option.right && !chosen.includes(i)).length;
  const wrongs = chosen.filter((i) => !item.options[i].right);
  if (!wrongs.length && !missed) {
    return { ok: true, notes: chosen.map((i) => item.options[i].why).filter(Boolean) };
  }
  const quoted = (i) => `${item.kind === "single" ? "" : `“${item.options[i].text}”: `}${item.options[i].why}`;
  const notes = wrongs.map(quoted);
  if (missed && item.kind === "multiple") {
    notes.push(`${missed === 1 ? "One true option is" : `${missed} true options are`} not ticked.`);
  }
  return { ok: false, notes };
}

function numericField(item) {
  const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", "aria-label": "Your answer" });
  return {
    el: h("div", { class: "advlib-numeric" }, input, item.unit ? h("span", {}, item.unit) : null),
    empty: "Type a number first, such as 0.25 or 3/8.",
    given: () => parseNumber(input.value),
    fits: Number.isFinite,
    fill: (value) => (input.value = value),
    judge: (value) => judgeNumber(item, value),
  };
}

// A comma separates thousands, as in the lessons' text, if all groups are whole; else it is a point.
const THOUSANDS = /^[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/;
const plain = (part) => part.replace(/,/g, THOUSANDS.test(part) ? "" : ".");

// Accepts 0.25, 0,25, 1e-3, 1,000 and fractions such as 8/255; anything else is null.
function parseNumber(text) {
  const parts = text.replace(/−/g, "-").split("/").map((part) => plain(part.trim()));
  if (parts.length > 2 || parts.includes("")) return null;
  const [top, bottom = 1] = parts.map(Number);
  return Number.isFinite(top / bottom) ? top / bottom : null;
}

function judgeNumber(item, value) {
  // With an allowance for rounding, so that 0.3 with tolerance 0.1 accepts 0.4.
  const near = (target) =>
    Math.abs(value - target) <= item.tolerance + 1e-9 * Math.max(1e-6, Math.abs(target));
  if (near(item.answer)) return { ok: true, notes: item.why ? [item.why] : [] };
  const mistake = item.mistakes.find((one) => near(one.value));
  return { ok: false, notes: [mistake ? mistake.why : item.hint] };
}

// ---------------------------------------------------------------- entry

const KINDS = { explorer, predict, reveal, quiz };

function render({ model, el }) {
  const root = h("div", {
    class: `advlib advlib-${model.get("kind")}`,
    "data-lm-suppress-shortcuts": "true",
    // In a notebook arrow keys select the next cell; inside a widget they move the slider.
    onkeydown: (event) => event.stopPropagation(),
  });
  const stop = KINDS[model.get("kind")]({ model, el: root });
  el.append(root);
  return stop;
}

export default { render };
