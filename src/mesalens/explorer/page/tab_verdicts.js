"use strict";
// The tab Verdicts: the claims of all studies, each with its interval.

const MARKS = { PASS: "✓", FAIL: "✗", INCONCLUSIVE: "?" };

// Every claim, the latest verdict of each at its budget.
function claimsOf(reports) {
  const claims = new Map();
  for (const { budget, studies } of reports)
    for (const { study, title, citation, parts } of studies)
      for (const claim of parts.flatMap((part) => part.claims))
        claims.set([study, budget, claim.claim].join(), { ...claim, budget, study, title, citation });
  return [...claims.values()].sort((a, b) => a.study.localeCompare(b.study));
}

const verdictsTab = {
  build() {
    this.claims = claimsOf(RECORD.reports);
    const studies = this.claims.map(({ study }) => [study, study]);
    FIELDS.study.options = { all: "all studies", ...Object.fromEntries(studies) };
    byId("controls-verdicts").append(...["study", "outcome", "q"].map((name) => control("verdicts", name)));
  },

  draw(state) {
    const wanted = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.claims.filter((claim) => {
      const { study, title, citation, claim: name, statement, estimator, place, outcome } = claim;
      const words = [study, title, citation, name, statement, estimator, place].join(" ").toLowerCase();
      return ["all", study].includes(state.study) && ["all", outcome].includes(state.outcome)
        && wanted.every((word) => words.includes(word));
    });
    const counts = Object.keys(MARKS).map((outcome) =>
      `${shown.filter((claim) => claim.outcome === outcome).length} ${outcome}`);
    byId("words-verdicts").textContent = `${shown.length} of ${this.claims.length} claims: ${counts.join(", ")}.`;
    byId("verdicts").tBodies[0].replaceChildren(...shown.map((claim) => this.row(claim)));
  },

  row(claim) {
    const { outcome, value, interval, universal, level, study, claim: name } = claim;
    const [low, high] = interval.map((end, side) => (end === null ? ["−∞", "∞"][side] : format(end)));
    const kind = universal ? "range over seeds" : level < 1 ? `${format(100 * level)}% interval` : "no interval";
    const words = `${value === null ? "no finite value" : format(value)}, ${kind} [${low}, ${high}]; `
      + `criterion: ${claim.criterion}; ${claim.seeds} of ${claim.seeds_run} seeds`;
    const source = `${claim.citation}. ${claim.place}. Budget ${claim.budget}, ${claim.made.slice(0, 10)}.`;
    const soft = (tag, text) => element(tag, { class: "soft" }, text);
    return element("tr", { "data-claim": name, "data-study": study },
      element("th", { scope: "row" }, soft("span", `${study} / ${name}`), element("p", {}, claim.statement),
        element("details", {}, element("summary", {}, "Measured"), element("p", {}, `${claim.estimator}.`),
          ...(claim.why ? [element("p", {}, claim.why)] : []), soft("p", source))),
      element("td", {}, element("span", { class: `badge ${outcome}` }, `${MARKS[outcome]} ${outcome}`)),
      element("td", {}, intervalPlot(claim, words), soft("p", `${words}.`)));
  },
};

// The criterion shaded, the interval as a line, the value as a dot.
function intervalPlot({ bounds, interval, value }, words) {
  const width = 280, edge = 42, shown = [...bounds, ...interval, value].filter((x) => x !== null);
  const low = Math.min(...shown); // halved before it is subtracted, as the difference may overflow
  const half = Math.max(...shown) / 2 - low / 2 || Math.abs(low) / 2 || 1;
  const place = (x, otherwise) =>
    (x === null ? otherwise : edge + ((x / 2 - low / 2) / half) * (width - 2 * edge));
  const sides = bounds.map((bound, side) => place(bound, side * width));
  const ends = interval.map((end, side) => place(end, side * width));
  const stroke = (kind, x1, y1, x2, y2) => element("svg:line", { class: kind, x1, y1, x2, y2 });
  // The numbers of two bounds that lie close together go outwards
  const anchors = bounds.includes(null) ? ["middle", "middle"] : ["end", "start"];
  return element("svg:svg", { class: "interval", viewBox: `0 0 ${width} 44`, role: "img", "aria-label": words },
    element("svg:rect", { x: sides[0], y: 2, width: sides[1] - sides[0], height: 26 }),
    ...sides.flatMap((x, side) => (bounds[side] === null ? [] : [
      stroke("bound", x, 2, x, 28),
      element("svg:text", { x, y: 41, "text-anchor": anchors[side] }, format(Number(bounds[side].toPrecision(3)))),
    ])),
    stroke("ends", ends[0], 15, ends[1], 15),
    ...ends.flatMap((x, side) => (interval[side] === null ? [] : [stroke("ends", x, 9, x, 21)])),
    ...(value === null ? [] : [element("svg:circle", { cx: place(value), cy: 15, r: 4.5 })]));
}
