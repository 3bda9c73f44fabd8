// Formulas: `generic` arithmatex leaves \(…\) and \[…\], and KaTeX renders them in place.
const render = () => {
  document.querySelectorAll(".arithmatex").forEach((formula) => {
    renderMathInElement(formula, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    });
    // A comma behind a formula stays on its line.
    const next = formula.nextSibling, mark = next?.nodeType === 3 && /^[,.;:)]+/.exec(next.data)?.[0];
    if (!mark) return;
    formula.querySelector(".katex-html > .base:last-child")?.append(mark);
    next.data = next.data.slice(mark.length);
  });
  // Short words of code are not broken at hyphens.
  document.querySelectorAll("article :is(p, li, dd, a) > code:not(:has(*))").forEach((code) => {
    const words = code.textContent.split(/(\s+)/).map((word) => {
      if (!/^\S{1,36}$/.test(word)) return word;
      const whole = document.createElement("span");
      whole.style.whiteSpace = "nowrap";
      whole.textContent = word;
      return whole;
    });
    code.replaceChildren(...words);
  });
};
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", render);
else render();

// The frame of the explorer has the theme of the site.
const dressed = () => {
  const frame = document.querySelector("iframe.explorer");
  if (!frame) return;
  const tell = () => {
    const theme = document.body.dataset.mdColorScheme === "slate" ? "dark" : "light";
    frame.contentWindow.postMessage({ theme }, "*");
  };
  frame.addEventListener("load", tell);
  new MutationObserver(tell).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
};
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", dressed);
else dressed();
