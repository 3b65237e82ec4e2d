// The reader's progress: locked guesses, quiz answers, scores. It stays in this browser.
//
// This part is joined in front of widgets.js and of the Live Lab, so it neither imports nor exports.
// Storage may be full, forbidden, absent (private windows, sandboxed frames) or hold anything. What
// it refuses is kept as long as the page; code that reads progress must check what it gets.

const progress = {
  // What storage refused. On window, because in a notebook each widget loads this code itself.
  memory: (window.advlibProgress ??= new Map()),

  // "/book/", "/book/index" and "/book/index.html" are one page under the names of different servers.
  page: (address = location) => address.pathname.replace(/\.html$/, "").replace(/\/index$/, "/"),

  name(key, page = this.page()) {
    return `advlib:${page}:${key}`;
  },

  // The stored value of a key, of this page or another; null: nothing is stored.
  get(key, page) {
    const name = this.name(key, page);
    if (this.memory.has(name)) return this.memory.get(name);
    try {
      return JSON.parse(localStorage.getItem(name));
    } catch {
      return null;
    }
  },

  set(key, value) {
    const name = this.name(key);
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, JSON.stringify(value));
      this.memory.delete(name);
    } catch {
      this.memory.set(name, value);
    }
    this.tell({ key, value });
  },

  // All stored names that begin with `start`: a page's address and ":", or a folder's address.
  names(start) {
    let stored = [];
    try {
      stored = Object.keys(localStorage);
    } catch {
      // nothing can be stored, so nothing is
    }
    return [...this.memory.keys(), ...stored].filter((name) => name.startsWith(`advlib:${start}`));
  },

  forget(start) {
    for (const name of this.names(start)) {
      this.memory.delete(name);
      try {
        localStorage.removeItem(name);
      } catch {
        // it was in memory only
      }
    }
    this.tell({});
  },

  // Whether this browser keeps anything beyond the page. The book's pages bring a stand-in for
  // storage that is forbidden, which is no Storage.
  lasts() {
    try {
      if (!(localStorage instanceof Storage)) return false;
      localStorage.setItem("advlib", "");
      localStorage.removeItem("advlib");
      return true;
    } catch {
      return false;
    }
  },

  tell(detail) {
    document.dispatchEvent(new CustomEvent("advlib:progress", { detail }));
  },

  // Calls back when anything may have changed: here, in another tab, or while the reader was on
  // another page and came back. Returns a function that stops it.
  watchAll(callback) {
    const places = [[document, "advlib:progress"], [window, "storage"], [window, "pageshow"]];
    places.forEach(([place, event]) => place.addEventListener(event, callback));
    return () => places.forEach(([place, event]) => place.removeEventListener(event, callback));
  },

  // Calls back with the new value of `key`; returns a function that stops it.
  watch(key, callback) {
    const read = () => JSON.stringify(this.get(key));
    let last = read();
    return this.watchAll((event) => {
      const now = read();
      if (now === last && event.detail?.key !== key) return;
      last = now;
      callback(this.get(key));
    });
  },
};

