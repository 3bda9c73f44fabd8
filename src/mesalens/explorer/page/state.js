"use strict";
// The state of the page. Its address has what differs from the defaults: #tab=optimum&d=10&…

const number = (label, fallback, min, max, step = 1, more = {}) => ({ label, fallback, min, max, step, ...more });
const choice = (label, fallback, options) => ({ label, fallback, options });
const text = (label, fallback, more = {}) => ({ label, fallback, text: true, ...more });
const labels = (kinds) => Object.fromEntries(Object.entries(kinds).map(([name, { label }]) => [name, label]));

const { inverse: _, ...withoutInverse } = labels(SPECTRA);
const TABS = { optimum: "Optimum", training: "Training", filter: "Filter", verdicts: "Verdicts" };

const FIELDS = {
  tab: choice("View", "optimum", TABS),
  d: number("dimension d", 5, 1, 12),
  n: number("examples n", 20, 1, 100),
  s2: number("noise variance σ²", 0.5, 0, 4, 0.05),
  S: choice("spectrum of Σ", "power", withoutInverse),
  Sp: text("parameter of Σ", "1", { when: (s) => "parameter" in SPECTRA[s.S] }),
  L: choice("spectrum of Λ", "flat", labels(SPECTRA)),
  Lp: text("parameter of Λ", "1", { when: (s) => "parameter" in SPECTRA[s.L] }),
  form: choice("structure of P", "full", {
    step: "one step size, P = p I", full: "full preconditioner", rank: "rank r",
  }),
  r: number("rank r", 2, 1, 12, 1, { when: (s) => s.form === "rank" }),
  k: number("steps k of gradient descent", 5, 1, 30),
  w: choice("free weights", "lowrank", labels(STRUCTURES)),
  H: number("heads", 5, 1, 8),
  R: number("rank R", 1, 1, 12, 1, { when: (s) => s.w === "lowrank" }),
  e: number("scale of the start, log₁₀", -4, -8, 0, 0.5),
  seed: number("seed of the start", 0, 0, 99),
  x: number("largest eigenvalue shown", 4, 0.5, 10, 0.5),
  v: choice("shown", "g", {
    g: "the filter g(λ)", learned: "what is learned, λ g(λ)", left: "what is left, 1 − λ g(λ)",
  }),
  on: text("filters shown", "gd,gdpp,newton,chebyshev,ridge"),
  gk: number("steps k", 5, 1, 30),
  ge: number("rate η", 0.4, 0.01, 2, 0.01),
  pk: number("steps k", 5, 1, 30),
  pe: number("rate η", 0.4, 0.01, 2, 0.01),
  pg: number("correction γ", 0.1, 0, 1, 0.01),
  nk: number("steps k", 4, 0, 12),
  na: number("scale a", 1, 0.05, 1.95, 0.05),
  ck: number("steps k", 5, 1, 30),
  cl: number("lower bound l", 0.2, 0.01, 2, 0.01),
  cu: number("upper bound u", 4, 2.05, 10, 0.05),
  rp: number("penalty / n", 0.25, 0.005, 4, 0.005),
  study: text("study", "all"),
  outcome: choice("verdict", "all", { all: "all", PASS: "PASS", FAIL: "FAIL", INCONCLUSIVE: "INCONCLUSIVE" }),
  q: text("search", ""),
};

// The value of a field that a text stands for; the default where it stands for none.
function valid(name, given) {
  const field = FIELDS[name];
  if (field.options) return Object.hasOwn(field.options, given) ? given : field.fallback;
  if (field.text) return given.slice(0, 200);
  const value = Number(given), steps = Math.round((value - field.min) / field.step);
  if (given.trim() === "" || !Number.isFinite(value)) return field.fallback;
  return Math.min(field.max, Math.max(field.min, Number((field.min + steps * field.step).toFixed(6))));
}

function readAddress(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const read = (name) => (given.has(name) ? valid(name, given.get(name)) : FIELDS[name].fallback);
  return Object.fromEntries(Object.keys(FIELDS).map((name) => [name, read(name)]));
}

function addressOf(state) {
  const names = Object.keys(FIELDS);
  const changed = names.filter((name) => name === "tab" || state[name] !== FIELDS[name].fallback);
  return "#" + new URLSearchParams(changed.map((name) => [name, state[name]])).toString();
}
