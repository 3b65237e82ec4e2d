// Draws the widgets of a page without a kernel, and how far the reader is. The book's extension puts
// this behind the others and loads all after each widget: it is drawn before what follows it is, so
// nothing moves.

function pageModel(state) {
  const listeners = [];
  return {
    offline: true,
    get: (name) => state[name] ?? null,
    set(name, value) {
      state[name] = value;
      listeners.filter((one) => one.event === `change:${name}`).forEach((one) => one.callback());
    },
    save_changes() {},
    on: (event, callback) => listeners.push({ event, callback }),
    off() {},
  };
}

// A place that waits gets its states from a file of its own; this script then comes once more.
for (const place of document.querySelectorAll(".advlib-widget:not([data-drawn], [data-waiting])")) {
  place.dataset.drawn = "";
  const still = place.querySelector(".advlib-still");
  try {
    const state = JSON.parse(place.querySelector('script[type="application/json"]').textContent);
    const el = document.createElement("div");
    render({ model: pageModel(state), el });
    still.replaceWith(el);
  } catch (error) {
    // The picture or text stays in place; the reader is told why nothing moves.
    const note = document.createElement("p");
    note.textContent = `This widget could not be drawn (${error.message}); its still form is shown.`;
    place.append(note);
  }
}

for (const place of document.querySelectorAll(".advlib-overview:not([data-drawn])")) {
  place.dataset.drawn = "";
  try {
    drawOverview(place);
  } catch (error) {
    console.warn(error); // the page is whole without it
  }
}
