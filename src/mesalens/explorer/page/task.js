"use strict";
// The task: x ~ N(0, Σ), w ~ N(0, Λ), y = w·x + noise of variance σ², n examples in the context.
// Σ and Λ share their eigenvectors. In that basis all expectations below are diagonal, and a list
// of eigenvalues stands for a matrix.

const SPECTRA = {
  flat: { label: "flat", values: (d) => Array(d).fill(1) },
  power: {
    label: "power law i⁻ᵃ", parameter: "1",
    values: (d, a) => scaled(range(d).map((i) => (i + 1) ** -numbers(a)[0])),
  },
  two: {
    label: "first half larger", parameter: "4",
    values: (d, ratio) => scaled(range(d).map((i) => (2 * i < d ? numbers(ratio)[0] : 1))),
  },
  list: {
    label: "a list", parameter: "1, 0.5", // repeated to d entries
    values: (d, list) => range(d).map((i) => numbers(list)[i % numbers(list).length]),
  },
  inverse: { label: "inverse of Σ", values: (d, _, sigma) => sigma.map((value) => 1 / value) },
};

// Scaled to the mean 1.
const scaled = (values) => values.map((value) => (value * values.length) / sum(values));

function numbers(text) {
  const values = String(text).split(/[\s,;]+/).filter(Boolean).map(Number);
  if (!values.length || values.some((value) => !(value > 0 && value < 1e6)))
    throw new Error(`give positive numbers, as in “1, 0.5”; got “${text}”`);
  return values;
}

function task({ d, n, s2, S, Sp, L, Lp }) {
  const sigma = SPECTRA[S].values(d, Sp);
  const lambda = SPECTRA[L].values(d, Lp, sigma);
  const constant = (values) =>
    values.every((value) => Math.abs(value - values[0]) < 1e-12 * values[0]);
  return { d, n, noise: s2, sigma, lambda, isotropic: constant(sigma) && constant(lambda) };
}

// With s = Σ_i y_i x_i, e_q the query: null = E y², labels = E[x_q y_q sᵀ], squares = E[s sᵀ], and
// inputs = E[x xᵀ].
function moments({ n, noise, sigma, lambda }) {
  const nothing = sum(sigma.map((s, i) => s * lambda[i])) + noise;
  return {
    null: nothing,
    labels: sigma.map((s, i) => n * s * s * lambda[i]),
    squares: sigma.map((s, i) => n * ((n + 1) * s * s * lambda[i] + nothing * s)),
    inputs: sigma,
  };
}
