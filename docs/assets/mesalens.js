// Formulas: `generic` arithmatex leaves \(…\) and \[…\], and KaTeX renders them in place.
const render = () =>
  document.querySelectorAll(".arithmatex").forEach((formula) =>
    renderMathInElement(formula, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    }),
  );
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
