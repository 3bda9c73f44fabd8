"use strict";
// The mean spectrum of XᵀX for n × d standard normals X: E Σ_i f(λ_i) for any function f.
//
// The m = min(n, d) eigenvalues that are not always 0 have a density ∝ |Δ(λ)| Π w(λ_i), where
// w(x) = x^((|n-d|-1)/2) e^(-x/2). By de Bruijn's formula its integral is Pf(A) with
//   A_jk = ∫∫ sgn(y - x) φ_j(x) φ_k(y) dx dy,      φ_j = p_j w,
// for any polynomials p_j of degree j, and the derivative of log Pf(A) by w(x) is the density
//   ρ(x) = Φ(x)ᵀ A⁻¹ φ(x),      Φ_k(x) = ∫ sgn(y - x) φ_k(y) dy.
// For odd m, A has one more row and column, ∫ φ_j, and Φ one more entry, 1. The p_j are Laguerre's
// polynomials. In u = √x all functions are smooth, and Gauss's quadrature converges exponentially.

const POINTS = 160;

function meanSpectrum(n, d) {
  const m = Math.min(n, d), a = Math.abs(n - d), size = m + (m % 2);
  // Singular values of X lie between √n - √d and √n + √d; the density has fallen below 1e-16 at 7 beyond
  const low = Math.max(0, Math.sqrt(n) - Math.sqrt(d) - 7), high = Math.sqrt(n) + Math.sqrt(d) + 7;
  const half = (high - low) / 2;
  const rule = gaussLegendre(POINTS);
  const u = rule.nodes.map((node) => low + half * (1 + node));
  const weights = rule.weights.map((w) => half * w);
  let logNorm = 0; // of Γ(a + 1)
  for (let i = 2; i <= a; i++) logNorm += Math.log(i);

  const phi = [u.map((x) => 2 * Math.exp(a * Math.log(x) - x * x / 2 - logNorm / 2))];
  for (let j = 0; j + 1 < m; j++)
    phi.push(u.map((x, i) => {
      const before = j ? Math.sqrt(j * (j + a)) * phi[j - 1][i] : 0;
      return ((2 * j + 1 + a - x * x) * phi[j][i] - before) / Math.sqrt((j + 1) * (j + 1 + a));
    }));
  const integrals = phi.map((f) => sum(f.map((value, i) => value * weights[i])));
  const Phi = phi.map((f, k) => u.map((_, i) => {
    let below = 0;
    for (let j = 0; j < POINTS; j++) below += rule.cumulative[i * POINTS + j] * f[j];
    return integrals[k] - 2 * half * below;
  }));
  if (size > m) {
    phi.push(u.map(() => 0));
    Phi.push(u.map(() => 1));
  }
  const A = new Float64Array(size * size);
  for (let j = 0; j < size; j++)
    for (let k = 0; k < j; k++) {
      const value = j === m ? -integrals[k] : sum(u.map((_, i) => weights[i] * phi[j][i] * Phi[k][i]));
      A[j * size + k] = value;
      A[k * size + j] = -value;
    }
  const back = inverse(A, size);
  const density = u.map((_, i) => {
    let total = 0;
    for (let j = 0; j < size; j++)
      for (let k = 0; k < size; k++) total += Phi[j][i] * back[j * size + k] * phi[k][i];
    return total;
  });
  const masses = density.map((rho, i) => rho * weights[i]);
  return { eigenvalues: u.map((x) => x * x), weights: masses, zeros: d - m };
}

// Gauss and Legendre's rule on [-1, 1], and the matrix that integrates from -1 to each node.
const gaussLegendre = once((count) => {
  const nodes = [], weights = [], cumulative = new Float64Array(count * count);
  const legendre = (x) => {
    const P = [1, x];
    for (let k = 1; k <= count; k++) P.push(((2 * k + 1) * x * P[k] - k * P[k - 1]) / (k + 1));
    return P;
  };
  for (let i = 0; i < count; i++) {
    let x = -Math.cos((Math.PI * (i + 0.75)) / (count + 0.5)), slope = 1;
    for (let turn = 0; turn < 8; turn++) {
      const P = legendre(x);
      slope = (count * (P[count - 1] - x * P[count])) / (1 - x * x);
      x -= P[count] / slope;
    }
    nodes.push(x);
    weights.push(2 / ((1 - x * x) * slope ** 2));
  }
  const P = nodes.map(legendre);
  for (let i = 0; i < count; i++)
    for (let j = 0; j < count; j++) {
      let total = (nodes[i] + 1) / 2; // of the constant
      for (let k = 1; k < count; k++) total += (P[j][k] * (P[i][k + 1] - P[i][k - 1])) / 2;
      cumulative[i * count + j] = weights[j] * total;
    }
  return { nodes, weights, cumulative };
});

// The function, which computes each value once.
function once(compute) {
  const known = new Map();
  return (...given) => {
    const key = given.join();
    if (!known.has(key)) known.set(key, compute(...given));
    return known.get(key);
  };
}
