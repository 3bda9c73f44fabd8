"use strict";
// The tab Filter: spectral filters of learners, and of a report.

const FILTERS = {
  gd: {
    label: "gradient descent", shade: "first", fields: ["gk", "ge"],
    g: (l, s) => descentFilter(l, { steps: s.gk, rate: s.ge }),
  },
  gdpp: {
    label: "GD++", shade: "second", fields: ["pk", "pe", "pg"],
    g: (l, s) => gdPlusPlusFilter(l, { steps: s.pk, rate: s.pe, correction: s.pg }),
  },
  newton: {
    label: "Newton’s iteration", shade: "third", fields: ["nk", "na"],
    g: (l, s) => newtonFilter(l, { steps: s.nk, scale: s.na, largest: s.x }),
  },
  chebyshev: {
    label: "Chebyshev’s descent", shade: "fourth", fields: ["ck", "cl", "cu"],
    g: (l, s) => chebyshevFilter(l, { steps: s.ck, lower: s.cl, upper: s.cu }),
  },
  ridge: {
    label: "ridge regression", shade: "fifth", fields: ["rp"],
    g: (l, s) => ridgeFilter(l, { penalty: s.rp }),
  },
  ls: { label: "least squares", shade: "neutral", fields: [], g: leastSquaresFilter },
};

const SHOWN = { g: (l, g) => g, learned: (l, g) => l * g, left: (l, g) => 1 - l * g };

const filterTab = {
  report: null,

  build(update) {
    const form = byId("controls-filter");
    form.append(group("filter", "Axes", "x", "v"));
    for (const [name, { label, shade, fields }] of Object.entries(FILTERS)) {
      const box = element("input", { type: "checkbox", id: `filter-on-${name}`, "data-filter": name });
      box.addEventListener("change", () => {
        const on = [...form.querySelectorAll("[data-filter]:checked")];
        update("on", on.map(({ dataset }) => dataset.filter).join());
      });
      const fieldset = group("filter", "", ...fields);
      const style = `--shade: var(--${shade})`;
      fieldset.querySelector("legend").append(box, element("label", { for: box.id, style }, label));
      form.append(fieldset);
    }
    this.listen();
  },

  listen() {
    const panel = byId("panel-filter"), over = (is) => panel.classList.toggle("over", is);
    byId("report").addEventListener("change", ({ target }) => target.files[0] && this.take(target.files[0]));
    byId("forget").addEventListener("click", () => this.forget());
    panel.addEventListener("dragleave", () => over(false));
    for (const kind of ["dragover", "drop"])
      panel.addEventListener(kind, (event) => {
        event.preventDefault();
        over(kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
      });
  },

  async take(file) {
    try {
      this.report = await readReport(file);
      const { words, reason, layers } = this.report;
      const measured = layers?.length > 1 ? `The filters of ${layers.length} layers are` : "The measured filter is";
      this.say(`${file.name}: ${words}. ` + (reason ? `No filter was measured: ${reason}.` : `${measured} drawn with a 95% band.`));
    } catch (error) {
      this.report = null;
      this.say(error.message, true);
    }
    byId("forget").hidden = !this.report;
    this.draw(this.state);
  },

  forget() {
    this.report = null;
    byId("report").value = "";
    byId("forget").hidden = true;
    this.say("");
    this.draw(this.state);
  },

  say(words, problem = false) {
    byId("report-words").textContent = words;
    byId("report-words").classList.toggle("error", problem);
  },

  draw(state) {
    this.state = state;
    const on = state.on.split(",").filter((name) => Object.hasOwn(FILTERS, name)), shown = SHOWN[state.v];
    for (const box of document.querySelectorAll("[data-filter]")) {
      box.checked = on.includes(box.dataset.filter);
      box.closest("fieldset").classList.toggle("off", !box.checked);
    }
    const report = this.report?.layers ? this.report : null;
    const largest = Math.max(state.x, ...(report?.eigenvalues ?? []));
    const grid = range(201).map((i) => (largest * (i || 0.2)) / 200);
    const traces = on.map((name) => {
      const { label, shade, g } = FILTERS[name];
      return line(label, grid, grid.map((l) => shown(l, g(l, state))), shade);
    });
    if (report) traces.push(...this.measured(report, shown));
    // Least squares has no largest value: the plot leaves out the highest few percent
    const values = traces.flatMap(({ y }) => y).filter(Number.isFinite).sort((a, b) => a - b);
    const [low, high] = [0.02, 0.97].map((share) => values[Math.floor(share * values.length)] ?? share);
    const room = 0.06 * (high - low) + 1e-9;
    draw("plot-filter", traces, {
      words: `${traces.length} curves over eigenvalues up to ${format(largest)}; the table has values.`,
      height: 420, showlegend: true, hovermode: "x unified",
      xaxis: { title: "eigenvalue λ of XᵀX/n", range: [0, largest] },
      yaxis: { title: { g: "g(λ)", learned: "λ g(λ)", left: "1 − λ g(λ)" }[state.v], range: [Math.min(0, low) - room, high + room] },
    });
    this.drawTable(on, state, shown);
    byId("words-filter").textContent = "Gradient descent learns large eigenvalues first. Least squares, "
      + "1/λ, leaves nothing. Newton’s iteration starts from a λ/λ₁², where λ₁ is the largest eigenvalue shown.";
  },

  measured({ eigenvalues: x, layers, bands, candidates }, shown) {
    const found = layers.flatMap((g, layer) => {
      const end = (sign) => x.map((l, i) => shown(l, g[i] + sign * bands[layer][i]));
      const name = layers.length > 1 ? `report, layer ${layer + 1}` : "report";
      const band = { fill: "toself", fillcolor: color("band"), width: 0, hoverinfo: "skip", showlegend: false };
      return [
        line("", [...x, ...[...x].reverse()], [...end(-1), ...end(1).reverse()], "ink", band),
        line(name, x, x.map((l, i) => shown(l, g[i])), "ink", { mode: "lines+markers", width: 2, marker: { size: 7 } }),
      ];
    });
    // Plotly reads a few tags in names; names of candidates are letters and dashes only
    return [...found, ...candidates.map(([name, g]) =>
      line(`report: ${name.replace(/[^\w+-]/g, " ")}`, x, x.map((l, i) => shown(l, g[i])), "soft", { dash: "dot", width: 1.5 }))];
  },

  drawTable(on, state, shown) {
    const at = [0.05, 0.25, 0.5, 0.75, 1].map((share) => share * state.x), table = byId("filters");
    const heads = ["at λ =", ...at.map(format)];
    table.tHead.replaceChildren(element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head))));
    table.tBodies[0].replaceChildren(...on.map((name) => {
      const values = at.map((l) => shown(l, FILTERS[name].g(l, state)));
      return element("tr", { "data-row": name }, element("th", { scope: "row" }, FILTERS[name].label),
        ...values.map((value) => element("td", { "data-value": value }, format(value))));
    }));
  },
};
