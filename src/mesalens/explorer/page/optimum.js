"use strict";
// The best steps ŷ = x_qᵀ P Σ_i y_i x_i from zero, exactly.

// P = p I: the risk is null - 2 p gain + p² cost.
function bestStep(m) {
  const gain = sum(m.labels), cost = sum(m.squares.map((k, i) => k * m.inputs[i]));
  return { size: gain / cost, risk: m.null - gain ** 2 / cost };
}

// P of rank r. Each eigenvector can be learned alone; it lowers the risk by labels² / (inputs
// squares), and the best r are taken. With r = d it is the best of all steps.
function bestOfRank(m, r) {
  const places = range(m.inputs.length).sort((i, j) => drop(m, j) - drop(m, i)).slice(0, r);
  const P = m.inputs.map((s, i) => (places.includes(i) ? m.labels[i] / (s * m.squares[i]) : 0));
  return { P, risk: m.null - sum(places.map((i) => drop(m, i))) };
}

const drop = (m, i) => m.labels[i] ** 2 / (m.inputs[i] * m.squares[i]);

// The risks of rank 0, 1, …, d: the plateaus of training.
const plateaus = (m) => range(m.inputs.length + 1).map((r) => bestOfRank(m, r).risk);

// The least risk of a predictor linear in all of S ⊗ x_q, S = Σ_i e_i e_iᵀ. If all labels change
// their signs, the blocks of S that hold xxᵀ and y² stay, and s and the target change theirs: those
// blocks are uncorrelated with s and with the target. The best weights on them are 0, and least
// squares on s ⊗ x_q is left: null - ‖inputs^-½ labels squares^-½‖².
const lowerBound = (m) =>
  m.null - sum(m.labels.map((l, i) => (l / Math.sqrt(m.inputs[i] * m.squares[i])) ** 2));
