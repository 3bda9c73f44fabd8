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
