// Draws the widgets and the reader's progress in a page without a kernel. The book's extension joins
// this behind the others and loads all after each widget, which is so drawn before what follows it:
// nothing on the page moves.

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

// The fold around an answer opens when its guess is locked, and closes when the reader guesses again.
// What a link or a search has opened stays open.
function foldWith(place, data) {
  const fold = place.closest("details.answer");
  if (!fold) return;
  if (keptGuess(data) !== null) fold.open = true;
  progress.watch(data.key, () => { fold.open = keptGuess(data) !== null; });
}

// With data-waiting, its first scene holds the height until a file has brought all scenes: then this
// script runs again.
for (const place of document.querySelectorAll(
  ".advlib-widget:not([data-drawn=all], [data-waiting][data-drawn])")) {
  const waiting = place.hasAttribute("data-waiting");
  place.dataset.drawn = waiting ? "first" : "all";
  const still = place.querySelector(".advlib-still");
  try {
    const state = JSON.parse(place.querySelector('script[type="application/json"]').textContent);
    const el = document.createElement("div");
    render({ model: pageModel(state), el });
    still.hidden = waiting;
    place.querySelector(".advlib")?.parentElement.remove();
    still.before(el);
    if (!waiting) still.remove();
    if (state.kind === "reveal") foldWith(place, state.data);
  } catch (error) {
    // The still stays, with the reason.
    const note = document.createElement("p");
    note.textContent = `This widget could not be drawn (${error.message}); a static view is shown.`;
    place.append(note);
  }
}

for (const place of document.querySelectorAll(".advlib-overview:not([data-drawn])")) {
  place.dataset.drawn = "";
  try {
    drawOverview(place);
  } catch (error) {
    console.warn(error); // the rest of the page works without it
  }
}
