// A lab's state in the page's address: `#live-lab?attack=pgd&norm=linf&eps=4/255&steps=10`.

import { h, write } from "./view.mjs";

/**
 * The state that the page's address holds for this lab, as it was written there, or null.
 * @param {string} lab  its name in the address
 */
export function stateOfAddress(lab) {
  const start = `#${lab}?`;
  if (!location.hash.startsWith(start)) return null;
  return Object.fromEntries(new URLSearchParams(location.hash.slice(start.length)));
}

/** Shows the lab that a link is about, and begins anew where only the link in the address changes. */
export function followAddress(lab, root) {
  if (stateOfAddress(lab)) root.scrollIntoView();
  window.addEventListener("hashchange", () => stateOfAddress(lab) && location.reload());
}

/**
 * The place of the option that a link names, or the one that stands if it names none.
 * @param {string[]} options
 */
export function placeOf(options, named, standing) {
  const place = options.indexOf(named);
  return place < 0 ? standing : place;
}

/**
 * The button that puts a lab's state into the address and copies it.
 * @param {() => Object<string, string>} state
 */
export function copyLink(lab, state) {
  const said = h("span", { class: "advlib-note", role: "status" });
  const copy = async () => {
    const query = String(new URLSearchParams(state())).replaceAll("%2F", "/");
    const link = new URL(`#${lab}?${query}`, location);
    history.replaceState(history.state, "", link);
    try {
      await navigator.clipboard.writeText(link.href);
      write(said, "The link is copied.");
    } catch {
      write(said, "The link stands in the address bar."); // this browser does not let a page copy
    }
  };
  return h("p", { class: "lab-link" }, h("button", { type: "button", onclick: copy }, "Copy link"), said);
}
