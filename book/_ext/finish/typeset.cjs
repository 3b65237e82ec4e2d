// Formulas in, HTML and style out: node typeset.cjs <MathJax's node-main.js> < pages.json
// {page: {fonts, formulas: [{tex, display}]}}  ->  {page: {style, html: [...]}}
"use strict";

const fs = require("node:fs");

const options = {
  loader: {
    load: ["input/tex-full", "output/chtml", "adaptors/liteDOM", "a11y/assistive-mml"],
    // Its version check complains about a component of its own.
    versionWarnings: false,
  },
  startup: { typeset: false },
  tex: {
    // Otherwise a mistake becomes red text in the page, and nobody hears of it.
    formatError: (_jax, error) => { throw error; },
  },
};

require(process.argv[2]).init(options).then((MathJax) => {
  const pages = JSON.parse(fs.readFileSync(0, "utf8"));
  const { adaptor, output } = MathJax.startup;
  const done = {};
  for (const [name, { fonts, formulas }] of Object.entries(pages)) {
    output.clearCache(); // the style then holds this page's glyphs only
    const html = formulas.map(({ tex, display }) => {
      try {
        const formula = MathJax.tex2chtml(tex, { display });
        if (display) {
          // Its width in its own letters: the style shrinks a long one until it fits a phone.
          const { w } = output.getBBox(output.math, MathJax.startup.document);
          adaptor.setStyle(formula, "--width", `${Math.ceil(10 * w) / 10}`);
          // One that is longer still scrolls sideways: by keyboard, too.
          adaptor.setAttribute(formula, "tabindex", "0");
        }
        return adaptor.outerHTML(formula);
      } catch (error) {
        throw new Error(`${name}: ${error.message} in ${tex}`);
      }
    });
    // The component knows the address of its fonts only for one page.
    const style = adaptor.textContent(MathJax.chtmlStylesheet());
    done[name] = { html, style: style.replace(/url\("[^"]*\/([^"/]+\.woff)"\)/g, `url("${fonts}/$1")`) };
  }
  process.stdout.write(JSON.stringify(done));
}).catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
