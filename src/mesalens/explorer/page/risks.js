"use strict";
// Risks of k steps of gradient descent, and of the Bayes predictor, which is ridge regression with
// the penalty σ² Λ⁻¹. Given the context's inputs both are known; the mean over inputs is exact where
// Σ and Λ are multiples of I, as the mean spectrum of XᵀX is all that matters there. For others
// inputs are drawn, and the mean has a standard error.

const CONTEXTS_FOR_RATE = 2048;
const MOST_CONTEXTS = 16384;
const PRECISE = 0.003; // the share of a risk below which its standard error ends a simulation

// E‖ŷ - y‖² of k steps from zero: with C = XᵀX/n and Q = I - g C = (I - ηC)^k the mean of
//   σ² + tr Σ Q Λ Q + σ²/n tr Σ g C g.
function exactDescentRisk({ d, n, noise, sigma: [s], lambda: [l] }, rate, steps) {
  const { eigenvalues, weights, zeros } = spectrumOf(n, d);
  let total = noise + s * l * zeros;
  eigenvalues.forEach((value, i) => {
    const c = (s * value) / n, left = (1 - rate * c) ** steps;
    total += s * weights[i] * (l * left ** 2 + (noise / n) * (1 - left) ** 2 / c);
  });
  return total;
}

function exactBayesRisk({ d, n, noise, sigma: [s], lambda: [l] }) {
  const { eigenvalues, weights, zeros } = spectrumOf(n, d);
  const left = eigenvalues.map((value) => (noise ? noise / (noise + s * l * value) : 0));
  return noise + s * l * (zeros + sum(weights.map((w, i) => w * left[i])));
}

const spectrumOf = once(meanSpectrum);

// The rate with the least risk: the best of a grid, then golden sections.
function bestRate(risk, scale) {
  const grid = range(60).map((i) => 2 * scale * 0.9 ** i);
  const values = grid.map(risk), best = values.indexOf(Math.min(...values));
  let low = grid[Math.min(best + 1, 59)], high = best ? grid[best - 1] : 2 * grid[0];
  const golden = (Math.sqrt(5) - 1) / 2;
  while (high - low > 1e-9 * high) {
    const a = high - golden * (high - low), b = low + golden * (high - low);
    if (risk(a) < risk(b)) high = b; else low = a;
  }
  return (low + high) / 2;
}

// 2 / (mean eigenvalue) is beyond what k steps bear; where d is larger than n it is less.
const rateScale = ({ d, n, sigma }) => d / sum(sigma) / (1 + d / n) * 2;

function exactRisks(t, steps) {
  const rate = bestRate((eta) => exactDescentRisk(t, eta, steps), rateScale(t));
  return { rate, descent: exactDescentRisk(t, rate, steps), bayes: exactBayesRisk(t) };
}

// One context: what the risks need of its inputs.
function drawContext({ d, n, sigma, lambda }, random) {
  const rows = Math.min(n, d), X = new Float64Array(rows * d);
  for (let i = 0; i < rows; i++) {
    if (n <= d) for (let j = 0; j < d; j++) X[i * d + j] = random.normal() * Math.sqrt(sigma[j]);
    else { // Bartlett's factor, which has the same XᵀX
      let chi = 0;
      for (let k = i; k < n; k++) chi += random.normal() ** 2;
      X[i * d + i] = Math.sqrt(chi * sigma[i]);
      for (let j = i + 1; j < d; j++) X[i * d + j] = random.normal() * Math.sqrt(sigma[j]);
    }
  }
  const gram = product(X, X, d, rows, d, { left: true });
  const { values, vectors } = eigen(gram, d);
  const rotated = (diagonal) => {
    const scaledVectors = vectors.map((value, place) => value * diagonal[Math.floor(place / d)]);
    return product(vectors, scaledVectors, d, d, d, { left: true });
  };
  const S = rotated(sigma), L = rotated(lambda);
  const root = lambda.map(Math.sqrt); // the Bayes risk needs Λ^½ XᵀX Λ^½
  const prior = eigen(gram.map((g, place) => g * root[Math.floor(place / d)] * root[place % d]), d);
  const weight = (a) => sum(sigma.map((s, i) => prior.vectors[i * d + a] ** 2 * s * lambda[i]));
  return {
    curvature: values.map((value) => Math.max(value, 0) / n),
    both: S.map((s, place) => s * L[place]),
    inputs: range(d).map((a) => S[a * d + a]),
    weights: range(d).map(weight),
    gains: prior.values,
  };
}

function descentRiskGiven({ curvature, both, inputs }, { d, n, noise }, rate, steps) {
  const left = curvature.map((c) => (1 - rate * c) ** steps);
  let total = noise;
  for (let a = 0; a < d; a++) {
    const g = descentFilterGiven(curvature[a], left[a], rate, steps);
    total += (noise / n) * inputs[a] * g * g * curvature[a];
    for (let b = 0; b < d; b++) total += both[a * d + b] * left[a] * left[b];
  }
  return total;
}

const descentFilterGiven = (c, left, rate, steps) => (c > 1e-12 ? (1 - left) / c : rate * steps);

function bayesRiskGiven({ weights, gains }, { noise }) {
  const least = 1e-12 * Math.max(...gains); // what is smaller is rounding
  return noise + sum(weights.map((w, a) => (gains[a] > least ? (w * noise) / (noise + gains[a]) : w)));
}

// Yields estimates that become more precise; at first nothing. The rate is chosen on the first
// contexts, and all others say what the risks are.
function* simulatedRisks(t, steps) {
  const random = new Random(1), first = [];
  while (first.length < CONTEXTS_FOR_RATE) {
    first.push(drawContext(t, random));
    if (first.length % 256 === 0) yield null;
  }
  const total = (eta) => sum(first.map((each) => descentRiskGiven(each, t, eta, steps)));
  const rate = bestRate(total, rateScale(t));
  const totals = { descent: [0, 0], bayes: [0, 0] };
  for (let count = 1; count <= MOST_CONTEXTS; count++) {
    const context = drawContext(t, random);
    const found = { descent: descentRiskGiven(context, t, rate, steps), bayes: bayesRiskGiven(context, t) };
    for (const name in found) { // Welford's mean and sum of squares
      const off = found[name] - totals[name][0];
      totals[name][0] += off / count;
      totals[name][1] += off * (found[name] - totals[name][0]);
    }
    if (count % 256) continue;
    const error = (name) => Math.sqrt(totals[name][1] / (count - 1) / count);
    const [descent, bayes] = [totals.descent[0], totals.bayes[0]];
    const [descentError, bayesError] = [error("descent"), error("bayes")];
    const done = count === MOST_CONTEXTS || Math.max(descentError / descent, bayesError / bayes) < PRECISE;
    yield { rate, contexts: count, descent, bayes, descentError, bayesError, done };
    if (done) return;
  }
}
