// The reader's progress: a line at the end of each lesson, and a list of all lessons on one page. Both
// exist in the book only, so this part is joined behind widgets.js there and nowhere else.

// How many of a lesson's questions are answered. `questions` gives for each key the number of questions
// in its quiz, each answered by a number or a list of options; 0 is a guess, answered by a number.
function answered({ href, questions }) {
  const page = progress.page(new URL(href, location));
  const isAnswer = (one) => Number.isFinite(one) || (Array.isArray(one) && one.length > 0);
  return sum(Object.entries(questions).map(([key, count]) => {
    if (!count) return Number.isFinite(progress.get(key, page)) ? 1 : 0;
    const kept = keptAnswers(key, page);
    return Array.from({ length: count }, (_, i) => kept[i]).filter(isAnswer).length;
  }));
}

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

const asked = ({ questions }) => sum(Object.values(questions).map((count) => count || 1));

// A button that asks for confirmation before it forgets.
function forgetter({ text, sure, forget }) {
  const status = h("span", { role: "status", tabindex: -1 });
  const link = (name, onclick) => button(name, onclick, { class: "advlib-link" });
  const first = link(text, () => show(true));
  const yes = link("Forget", () => {
    show(false);
    forget();
    status.textContent = "Forgotten.";
    status.focus();
  });
  const choice = h("span", { role: "group", "aria-label": sure, hidden: true }, `${sure} `, yes,
    link("Keep", () => show(false)));
  function show(asking) {
    first.hidden = asking;
    choice.hidden = !asking;
    (asking ? yes : first).focus();
  }
  return {
    el: h("span", { class: "advlib-forget" }, first, choice, status),
    // Shows the button if there is something to forget.
    offer(something) {
      first.hidden = !something || !choice.hidden;
      if (something) status.textContent = "";
    },
  };
}

const STORED = "Guesses, answers and scores stay in this browser.";
const NOT_STORED = "This browser keeps nothing for this page, so answers last until you leave it.";

// The line below a lesson.
function lessonLine(lesson, home) {
  const state = h("span", {});
  const forget = forgetter({
    text: "Forget this lesson's answers",
    sure: "Forget all guesses and answers of this lesson?",
    forget: () => progress.forget(`${progress.page()}:`),
  });
  const where = progress.lasts() ? STORED : NOT_STORED;
  return {
    el: h("p", {}, h("span", {}, state, " ", where), h("a", { href: home }, "Your progress"), forget.el),
    update() {
      const [done, all] = [answered(lesson), asked(lesson)];
      state.textContent = done === all
        ? `✓ All ${all} questions of this lesson answered.`
        : `${done} of ${all} questions of this lesson answered.`;
      forget.offer(progress.names(`${progress.page()}:`).length > 0);
    },
  };
}

// The folded list of all lessons, with a button that forgets everything.
function bookList(lessons, root) {
  const rows = lessons.map((lesson) => {
    const fill = h("span", { class: "advlib-fill advlib-clean" });
    const value = h("span", { class: "advlib-value" });
    const el = h("li", { class: "advlib-bar" }, h("a", { class: "advlib-name", href: lesson.href }, lesson.title),
      h("span", { class: "advlib-track", "aria-hidden": "true" }, fill), value);
    return { el, fill, value };
  });
  const state = h("summary", {});
  const folder = new URL(root, location).pathname;
  const forget = forgetter({
    text: "Forget everything",
    sure: "Forget all guesses, answers and scores of this book?",
    forget: () => progress.forget(folder),
  });
  const title = uid();
  return {
    el: h("div", { role: "group", "aria-labelledby": title },
      h("p", { class: "advlib-kicker", id: title }, "Your progress"),
      h("details", {}, state, h("ul", {}, rows.map((row) => row.el)),
        h("p", {}, h("span", {}, progress.lasts() ? STORED : NOT_STORED), forget.el))),
    update() {
      const done = lessons.map(answered);
      const all = lessons.map(asked);
      rows.forEach(({ fill, value }, i) => {
        fill.style.width = `${(100 * done[i]) / all[i]}%`;
        value.textContent = `${done[i] === all[i] ? "✓ " : ""}${done[i]} of ${all[i]}`;
      });
      const whole = done.filter((count, i) => count === all[i]).length;
      state.textContent = `${sum(done)} of ${sum(all)} questions answered, ${whole} of ${lessons.length} lessons complete`;
      forget.offer(progress.names(folder).length > 0);
    },
  };
}

function drawOverview(place) {
  const { lessons, home, root } = JSON.parse(place.querySelector("script").textContent);
  const view = home === undefined ? bookList(lessons, root) : lessonLine(lessons[0], home);
  view.update();
  progress.watchAll(view.update);
  place.replaceChildren(view.el);
}
