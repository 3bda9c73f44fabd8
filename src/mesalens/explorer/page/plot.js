"use strict";
// Plots in the colours of the page's theme.

const FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";

const color = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A line through points, in a colour of the theme.
const line = (name, x, y, shade, { dash, width = 2.5, ...more } = {}) => ({
  type: "scatter", mode: "lines", name, x, y, line: { color: color(shade), width, dash },
  hovertemplate: "%{y:.4g}", ...more,
});

const dot = (x, y, shade) => ({
  type: "scatter", mode: "markers", x: [x], y: [y], hoverinfo: "skip", showlegend: false,
  marker: { color: color(shade), size: 10, line: { color: color("raised"), width: 2 } },
});

function axis({ title, ...more } = {}) {
  const lines = { gridcolor: color("line"), zerolinecolor: color("line"), linecolor: color("line") };
  const shown = title && { text: title, standoff: 8 };
  return { ...lines, automargin: true, fixedrange: true, title: shown, ...more };
}

// Draws traces into a plot, with the words that say what it shows.
function draw(id, traces, { height = 300, xaxis, yaxis, words, ...layout }) {
  const place = byId(id), font = { family: FONT, size: 12.5, color: color("ink") };
  Plotly.react(place, traces, {
    height, font, paper_bgcolor: "transparent", plot_bgcolor: "transparent", dragmode: false,
    margin: { l: 8, r: 12, t: 12, b: 8 }, showlegend: false,
    hoverlabel: { bgcolor: color("raised"), bordercolor: color("line"), font },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    ...layout, xaxis: axis(xaxis), yaxis: axis(yaxis),
  }, { displayModeBar: false, responsive: true });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", words);
}

// A matrix as a heat map, of a neutral colour where it is 0; NaN leaves a gap.
function drawMatrix(id, rows, { title, words, largest }) {
  const entries = rows.flat().filter(Number.isFinite).map(Math.abs);
  const limit = largest ?? Math.max(1e-12, ...entries);
  const cell = Math.min(34, byId(id).clientWidth / rows[0].length);
  const hidden = { ticks: "", showticklabels: false, showgrid: false, zeroline: false, showline: false };
  draw(id, [{
    type: "heatmap", z: rows, zmin: -limit, zmax: limit, xgap: 1, ygap: 1, hoverongaps: false,
    colorscale: [[0, color("minus")], [0.5, color("zero")], [1, color("plus")]],
    showscale: false, hovertemplate: "%{z:.4g}<extra></extra>",
  }], {
    height: 34 + cell * rows.length, words, margin: { l: 4, r: 4, t: 30, b: 4 },
    title: { text: title, font: { size: 13 }, x: 0.5, xanchor: "center", y: 0.98, yanchor: "top" },
    xaxis: { ...hidden, constrain: "domain" },
    yaxis: { ...hidden, constrain: "domain", autorange: "reversed", scaleanchor: "x" },
  });
}
