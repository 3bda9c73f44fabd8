"use strict";
// The tab Optimum: the best step of a task, and risks beside it.

const TASK_FIELDS = ["d", "n", "s2", "S", "Sp", "L", "Lp"];
const MOST_EXAMPLES = 200; // in the plot over the context length

const optimumTab = {
  build() {
    byId("controls-optimum").append(
      group("optimum", "Task", ...TASK_FIELDS), group("optimum", "Step", "form", "r", "k"));
  },

  draw(state) {
    clearTimeout(this.timer);
    const t = task(state), m = moments(t), { k } = state, rank = Math.min(state.r, t.d);
    const step = bestStep(m), full = bestOfRank(m, t.d), ofRank = bestOfRank(m, rank);
    this.rows = [
      { key: "null", name: "predicting 0", risk: m.null },
      { key: "step", name: "one step of gradient descent", risk: step.risk },
      { key: "descent", name: `${k} steps of gradient descent`, shade: "second" },
      { key: "rank", name: `best layer of rank ${rank}`, risk: ofRank.risk, shade: "first" },
      { key: "best", name: "best layer", risk: full.risk, shade: "first" },
      { key: "bound", name: "lower bound of all layers", risk: lowerBound(m) },
      { key: "bayes", name: "Bayes: ridge, penalty σ²Λ⁻¹", shade: "second" },
    ].filter(({ key }) => (key !== "rank" || state.form === "rank") && (key !== "descent" || k > 1));
    if (t.isotropic) this.fill(exactRisks(t, k));
    this.drawRisks(m);
    const P = { step: t.sigma.map(() => step.size), full: full.P, rank: ofRank.P }[state.form];
    this.drawStep(t, step, P, state.form);
    this.drawLength(state, rank);
    byId("panel-optimum").dataset.done = t.isotropic;
    if (!t.isotropic) this.simulate(simulatedRisks(t, k), m);
  },

  fill({ descent, bayes, descentError, bayesError, rate, contexts }) {
    const values = {
      descent: { risk: descent, error: descentError, rate, contexts },
      bayes: { risk: bayes, error: bayesError, contexts },
    };
    for (const row of this.rows) Object.assign(row, values[row.key]);
  },

  // Draws contexts in slices, so that the page stays quick; more precise from slice to slice.
  simulate(estimates, m) {
    const next = () => {
      const { value } = estimates.next();
      if (value) {
        this.fill(value);
        this.drawRisks(m);
        byId("panel-optimum").dataset.done = value.done;
      }
      if (!value?.done) this.timer = setTimeout(next, 0);
    };
    this.timer = setTimeout(next, 120);
  },

  drawRisks(m) {
    const bound = lowerBound(m), value = ({ risk, error }) => (error ? plusMinus(risk, error) : format(risk));
    byId("risks").tBodies[0].replaceChildren(...this.rows.map((row) => {
      const { key, name, risk, error, rate, contexts } = row, known = risk !== undefined;
      const how = contexts ? `simulated, ${contexts.toLocaleString("en")} contexts` : "exactly";
      const cells = known ? [value(row), percent(risk / m.null), how] : ["…", "…", "…"];
      const numbers = { "data-value": risk, "data-error": error, "data-rate": rate };
      return element("tr", { "data-row": key, ...numbers },
        element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell)));
    }));

    const bars = this.rows.filter(({ key, risk }) => key !== "bound" && risk !== undefined);
    const simulated = bars.filter(({ error }) => error), keys = (rows) => rows.map(({ key }) => key);
    const risks = (rows) => rows.map(({ risk }) => risk), shade = color("bound");
    const words = bars.map((row) => `${row.name}: ${value(row)}`).join("; ");
    const limits = { array: simulated.map(({ error }) => 1.96 * error), color: color("ink"), thickness: 1.5, width: 5 };
    draw("plot-risks", [
      { type: "bar", orientation: "h", y: keys(bars), x: risks(bars), width: 0.4, hoverinfo: "skip",
        marker: { color: bars.map((row) => color(row.shade ?? "neutral")) } },
      { type: "scatter", mode: "markers", y: keys(simulated), x: risks(simulated), error_x: limits,
        marker: { size: 1, color: color("ink") }, hoverinfo: "skip" },
    ], {
      height: 48 * bars.length + 76, words: `Lower bound ${format(bound)}. ${words}.`,
      margin: { l: 12, r: 16, t: 30, b: 8 }, xaxis: { rangemode: "tozero", title: "risk" },
      yaxis: { range: [bars.length - 0.5, -0.9], showticklabels: false, showgrid: false },
      shapes: [{ type: "line", x0: bound, x1: bound, y0: 0, y1: 1, yref: "paper",
        line: { color: shade, width: 2, dash: "dash" } }],
      annotations: [
        { x: bound, y: 1, yref: "paper", yanchor: "bottom", showarrow: false,
          text: "lower bound of all layers", font: { color: shade, size: 12 },
          xanchor: bound > m.null / 2 ? "right" : "left" },
        ...bars.map((row, place) => ({
          x: 0, y: place, yshift: 20, xanchor: "left", showarrow: false, borderpad: 1,
          text: `${row.name}  <b>${value(row)}</b>`, bgcolor: color("raised") })),
      ],
    });
    const { rate } = this.rows.find((row) => row.rate) ?? {};
    byId("words-risks").textContent = "No layer of linear self-attention, with any number of heads, "
      + `has a risk below ${format(bound)}; the best layer has it. `
      + (rate ? `The best constant rate of gradient descent is ${format(rate)} on the mean loss. ` : "")
      + (simulated.length ? "Risks of several steps and of Bayes are exact for isotropic tasks only "
        + "(Σ and Λ multiples of I). Here they are simulated: ± is the standard error, and bars show "
        + "95% intervals." : "");
  },

  drawStep(t, step, P, form) {
    const words = form === "step"
      ? `The best step size is ${format(step.size)} on ½ Σᵢ (w·xᵢ − yᵢ)², ${format(step.size * t.n)} on the mean over the context.`
      : `Eigenvalues of P along the eigenvectors of Σ: ${P.map(format).join(", ")}.`;
    const single = line("", [0.5, t.d + 0.5], [step.size, step.size], "second", { dash: "dash", hoverinfo: "skip" });
    draw("plot-step", [
      { type: "bar", x: range(t.d).map((i) => i + 1), y: P, marker: { color: color("first") },
        hovertemplate: "P: %{y:.4g}<extra></extra>" },
      single,
    ], {
      words, height: 260, bargap: 0.35, yaxis: { title: "eigenvalue of P", rangemode: "tozero" },
      xaxis: { title: "eigenvector of Σ", dtick: 1, showgrid: false, range: [0.4, t.d + 0.6] },
    });
    const figure = byId("words-step");
    figure.textContent = `${words} The dashed line is the best single step size, ${format(step.size)}.`;
    Object.assign(figure.dataset, { size: step.size, step: JSON.stringify(P) });
  },

  // Exact risks only; n grows by the same factor from point to point.
  drawLength(state, rank) {
    const lengths = [...new Set(range(60).map((i) => Math.round(MOST_EXAMPLES ** (i / 59))))];
    const over = (risk) => lengths.map((n) => risk(moments(task({ ...state, n }))));
    const best = over(lowerBound);
    const traces = [
      line("predicting 0", lengths, over((m) => m.null), "neutral", { dash: "dot" }),
      line("one step of descent", lengths, over((m) => bestStep(m).risk), "second"),
      line("best layer", lengths, best, "first"),
      dot(state.n, lowerBound(moments(task(state))), "first"),
    ];
    if (state.form === "rank")
      traces.push(line(`rank ${rank}`, lengths, over((m) => bestOfRank(m, rank).risk), "third", { dash: "dash" }));
    const words = `The best layer has the risk ${format(best[0])} for n = 1 and ${format(best.at(-1))} `
      + `for n = ${MOST_EXAMPLES}; σ² is ${format(state.s2)}.`;
    draw("plot-length", traces, {
      words, height: 260, showlegend: true, yaxis: { title: "risk", rangemode: "tozero" },
      xaxis: { type: "log", title: "examples n", tickvals: [1, 2, 5, 10, 20, 50, 100, 200] },
    });
    byId("words-length").textContent = words;
  },
};
