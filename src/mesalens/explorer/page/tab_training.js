"use strict";
// The tab Training: the gradient flow of a layer, as it goes.

const START_FIELDS = ["w", "H", "R", "e", "seed"];
const GROWTH = 1.015; // of the time, from one point of the curve to the next
const PACE = 0.15; // points of the curve for each millisecond on the clock: a decade in a second
const BUDGET = 30; // milliseconds of integration for each drawing
const SPAN = 1e9; // from the first time to the last

const trainingTab = {
  build() {
    byId("controls-training").append(
      group("training", "Layer", ...START_FIELDS), group("training", "Task", ...TASK_FIELDS));
    byId("run").addEventListener("click", () => (this.running ? this.stop() : this.start()));
    byId("reset").addEventListener("click", () => this.reset(this.state));
  },

  // The flow starts anew if something that it depends on has changed.
  draw(state) {
    const about = JSON.stringify([...TASK_FIELDS, ...START_FIELDS].map((name) => state[name]));
    if (about !== this.about) this.reset(state, about);
    else this.show();
  },

  reset(state, about = this.about) {
    const t = task(state), rank = Math.min(state.R, t.d), scale = 10 ** state.e;
    const options = { structure: state.w, heads: state.H, rank, d: t.d, scale, seed: state.seed };
    const layer = new Layer(t, options), flow = new Flow(layer, startingWeights(options));
    this.pause();
    Object.assign(this, { state, about, flow, levels: plateaus(layer.moments) });
    this.target = 0.05 / Math.max(...layer.moments.labels);
    this.last = SPAN * this.target;
    this.curve = [{ time: this.target, risk: flow.risk }];
    this.show();
  },

  start() {
    if (this.ended) this.reset(this.state);
    this.running = true;
    this.clock = performance.now();
    byId("run").textContent = "Pause";
    this.frame();
  },

  pause() {
    this.running = false;
    clearTimeout(this.timer);
    byId("run").textContent = "Start";
  },

  stop() {
    this.pause();
    this.show();
  },

  get ended() {
    return this.flow.arrived || this.flow.time >= this.last;
  },

  frame() {
    const now = performance.now();
    const points = Math.max(1, Math.min(100, Math.round(PACE * (now - this.clock))));
    this.clock = now;
    for (let point = 0; point < points && !this.ended; point++) {
      if (!this.flow.advance(this.target, now + BUDGET)) break;
      this.curve.push({ time: this.target, risk: this.flow.risk });
      this.target *= GROWTH;
    }
    if (this.ended) this.pause();
    this.show();
    if (this.running) this.timer = setTimeout(() => this.frame(), 16);
  },

  show() {
    const { time, risk, steps, arrived } = this.flow;
    this.drawLoss();
    this.drawWeights();
    byId("clock").value = `t = ${format(time)}, risk ${format(risk)}, ${steps} steps${arrived ? ", arrived" : ""}`;
    const levels = JSON.stringify(this.levels);
    Object.assign(byId("panel-training").dataset, { time, risk, arrived, levels });
  },

  drawLoss() {
    const { curve, levels, flow } = this, first = curve[0], last = curve.at(-1), off = (r) => Math.abs(levels[r] - flow.risk);
    const ends = [first.time, Math.max(last.time, 1e3 * first.time)];
    const nearest = range(levels.length).reduce((best, r) => (off(r) < off(best) ? r : best));
    const words = `At time ${format(flow.time)} the risk is ${format(flow.risk)}, nearest to the `
      + `plateau of rank ${nearest}, ${format(levels[nearest])}. The plateaus: ${levels.map(format).join(", ")}.`;
    const [top, bottom] = [Math.max(levels[0], Math.min(first.risk, 2 * levels[0])), levels.at(-1)];
    const named = range(levels.length).filter((r) => levels.length <= 8 || r === 0 || r === levels.length - 1);
    const marked = (r) => ({ dash: "dash", width: r === nearest ? 2 : 1.2, hoverinfo: "skip" });
    draw("plot-loss", [
      ...levels.map((level, r) => line("", ends, [level, level], r === nearest ? "second" : "bound", marked(r))),
      line("", curve.map(({ time }) => time), curve.map(({ risk }) => risk), "first",
        { width: 3, hovertemplate: "t = %{x:.4g}<br>risk %{y:.5g}<extra></extra>" }),
      dot(last.time, last.risk, "first"),
    ], {
      words, height: 340, margin: { l: 8, r: 60, t: 12, b: 8 },
      xaxis: { type: "log", title: "time t of the flow", exponentformat: "power", dtick: 1, range: ends.map(Math.log10) },
      yaxis: { title: "risk", range: [bottom - 0.04 * (top - bottom), top + 0.05 * (top - bottom)] },
      annotations: named.map((r) => ({
        x: 1, xref: "paper", xanchor: "left", y: levels[r], showarrow: false, text: `rank ${r}`,
        font: { size: 11, color: color("soft") } })),
    });
    if (!this.running) byId("words-loss").textContent = words;
  },

  drawWeights() {
    const { layer, theta } = this.flow, { d } = layer.task, { heads } = layer.options, D = d + 1;
    layer.effective(theta);
    for (const matrix of ["A", "B"]) { // heads side by side, with a gap between them
      const row = (h, i) => [...layer[matrix].slice((h * D + i) * D, (h * D + i + 1) * D)];
      const rows = range(D).map((i) => range(heads).flatMap((h) => [...(h ? [NaN] : []), ...row(h, i)]));
      const title = matrix + (heads > 1 ? ` of ${heads} heads` : "");
      const largest = format(Math.max(...layer[matrix].map(Math.abs)));
      drawMatrix(`plot-${matrix}`, rows, { title, words: `${title}; the largest entry is ${largest}.` });
    }
    const P = stepOf(d, heads, layer.A, layer.B), best = bestOfRank(layer.moments, d).P;
    const ofBest = (i, j) => (i === j ? best[i] : 0);
    const both = range(d).map((i) => [...P.slice(i * d, i * d + d), NaN, ...range(d).map((j) => ofBest(i, j))]);
    const off = Math.hypot(...P.map((p, place) => p - ofBest(Math.floor(place / d), place % d)));
    const words = `Its step P differs from the best step by ${percent(off / Math.hypot(...best))} of the norm of the best step.`;
    drawMatrix("plot-P", both, { title: "its step P, and the best step", words, largest: Math.max(...best) });
    byId("words-weights").textContent = "The last row and column of A and B are those of the label. "
      + `Blue is positive. ${words}`;
  },
};
