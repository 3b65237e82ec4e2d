// The Photo Lab's controls: photographs, the attack and its settings, the network's download.

import { ATTACKS, STEPS, iterated } from "../lab/settings.mjs";
import { h, ownImage, segments, slider, uniqueId, write } from "../lab/view.mjs";
import { ABOUT_PHOTO, FAVOURITE, PHOTO_NORMS } from "./choices.mjs";

/** The shipped photographs as radio buttons with their credits, and the field for the reader's own. */
export function makePhotographs(photographs, chosen, folder, actions) {
  const name = uniqueId();
  const credit = h("p", { class: "advlib-note photo-credit" });
  const inputs = photographs.map(([title]) => h("input", {
    type: "radio", name, value: title, checked: title === chosen,
    onchange: () => actions.choose(title),
  }));
  const labels = photographs.map(([title], i) => h("label", { title }, inputs[i],
    h("img", { src: `${folder}${title}.jpg`, width: 96, height: 96, alt: title })));
  const element = h(
    "div",
    { class: "photo-pick" },
    h("fieldset", {}, h("legend", { class: "advlib-label" }, "Pick a photograph"),
      h("div", { class: "photo-strip" }, labels)),
    h("div", {}, credit, ownImage(actions.upload)),
  );
  return {
    element,
    /** @param {?string} title  of the photograph that is shown; none of these if it is the reader's own */
    follow(title) {
      inputs.forEach((input) => (input.checked = input.value === title));
      write(credit, photographs.find(([one]) => one === title)?.[1] ?? "Your own image.");
    },
  };
}

/** A field that finds a class by its name. */
function makeSearch(label, onfound) {
  const id = uniqueId(), listId = uniqueId();
  const list = h("datalist", { id: listId });
  const missing = h("span", { class: "advlib-note", role: "status" });
  const input = h("input", { type: "text", id, list: listId, autocomplete: "off", spellcheck: "false" });
  const favourite = h("button", { type: "button", class: "photo-favourite" }, FAVOURITE);
  let names = [];

  /** The class with this name, or the only one whose name has this part; -1 if there is none. */
  function find(text) {
    const wanted = text.trim().toLowerCase();
    const exact = names.findIndex((name) => name.toLowerCase() === wanted);
    if (exact >= 0 || !wanted) return exact;
    const having = names.filter((name) => name.toLowerCase().includes(wanted));
    return having.length === 1 ? names.indexOf(having[0]) : -1;
  }

  const choose = (place) => {
    write(missing, "");
    onfound(place);
  };
  // A name that is chosen from the list arrives as if it were typed.
  input.addEventListener("input", () => names.includes(input.value) && choose(names.indexOf(input.value)));
  input.addEventListener("change", () => {
    const place = find(input.value);
    if (place >= 0) choose(place);
    else write(missing, `“${input.value}” is not one of the ${names.length} classes.`);
  });
  favourite.addEventListener("click", () => choose(names.indexOf(FAVOURITE)));
  const element = h("div", { class: "advlib-control photo-target lab-wide" },
    h("label", { for: id }, label), input, favourite, missing, list);
  return {
    element,
    input,
    names(all) {
      names = all;
      list.replaceChildren(...all.map((name) => h("option", { value: name })));
    },
    follow(place) {
      if (document.activeElement !== input) input.value = names[place] ?? "";
      favourite.disabled = !names.length;
    },
  };
}

/** What the slider of steps shows for attacks that are not iterative. */
const NO_STEPS = { noise: "none", fgsm: "one" };

/**
 * @param {import("./choices.mjs").PhotoSetting} setting
 * @param {Object<string, number[]>} budgets  the stops of epsilon, by norm
 * @param {{name: string, title: string}[]} networks
 */
export function makePhotoControls(setting, budgets, networks, actions) {
  const epsText = (i) => PHOTO_NORMS[setting.norm].text(budgets[setting.norm][i]);
  const eps = slider("epsilon", budgets.linf.length, setting.stop, epsText, (stop) => actions.change({ stop }));
  const stepsText = (i) => (iterated(setting.attack) ? String(STEPS[i]) : NO_STEPS[setting.attack]);
  const steps = slider("steps", STEPS.length, setting.steps, stepsText, (i) => actions.change({ steps: i }));
  const target = makeSearch("target", (place) => actions.change({ attack: "targeted", target: place }));
  const about = h("p", { class: "advlib-note lab-about lab-wide" });
  const norms = Object.entries(PHOTO_NORMS).map(([norm, { name }]) => [norm, name]);
  const attack = segments("attack", ATTACKS, setting.attack, (one) => actions.change({ attack: one }), { wide: true });
  const norm = segments("norm", norms, setting.norm, (one) => actions.change({ norm: one }));
  const network = networks.length > 1 && segments("network", networks.map(({ name, title }) => [name, title]),
    setting.network, (one) => actions.change({ network: one }), { wide: true });
  const levels = h("input", { type: "checkbox", onchange: () => actions.change({ levels: levels.checked }) });
  const check = (group, value) => {
    for (const input of group.querySelectorAll("input")) input.checked = input.value === value;
  };
  return {
    element: h("div", { class: "advlib-controls" },
      network || null, attack, about, target.element, eps.element, norm, steps.element,
      h("div", { class: "advlib-control" }, h("label", { class: "photo-levels" }, levels,
        h("span", {}, "End on whole 8-bit levels")))),
    names: target.names,
    /** Shows what belongs to the present setting. */
    follow() {
      write(about, ABOUT_PHOTO[setting.attack]);
      check(attack, setting.attack);
      check(norm, setting.norm);
      if (network) check(network, setting.network);
      levels.checked = setting.levels;
      target.element.classList.toggle("photo-aside", setting.attack !== "targeted");
      target.follow(setting.target);
      steps.input.disabled = !iterated(setting.attack);
      eps.input.value = setting.stop;
      steps.input.value = setting.steps;
      eps.update();
      steps.update();
    },
    focus: () => attack.querySelector("input:checked").focus(),
  };
}

/** The button that loads the network, how far it has come, and what there is to say when it is there. */
export function makeDownload(actions) {
  const megabytes = (count) => (count / 1e6).toFixed(1);
  const text = h("p", { class: "advlib-note" });
  const bar = h("progress", { value: 0, hidden: true, "aria-label": "Download of the network" });
  let loading = false;
  const button = h("button", { type: "button", class: "advlib-button",
    onclick: () => (loading ? actions.cancel() : actions.load()) });
  const element = h("div", { class: "photo-download" }, button, bar, text);
  return {
    element,
    /** @param {import("./networks.mjs").Network} network  the one that is chosen */
    update({ state, arrived, about, bytes, intro }) {
      const leaving = state === "ready" && element.contains(document.activeElement);
      loading = state === "loading";
      button.hidden = state === "ready";
      bar.hidden = !loading;
      bar.max = bytes;
      bar.value = arrived;
      write(button, loading ? "Cancel" : `Load the network, ${Math.round(bytes / 1e6)} MB`);
      const texts = { none: intro, loading: `${megabytes(arrived)} of ${megabytes(bytes)} MB`, ready: about };
      write(text, texts[state]);
      if (leaving) actions.loaded(); // the keyboard goes on elsewhere
    },
  };
}
