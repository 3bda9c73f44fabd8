"use strict";
// Spectral filters: learners that predict ŷ = x_qᵀ U g(λ) Uᵀ Xᵀy / n, XᵀX/n = U diag(λ) Uᵀ.

// k steps of gradient descent: (1 - (1 - ηλ)^k) / λ.
function descentFilter(lambda, { rate, steps }) {
  return gdPlusPlusFilter(lambda, { rate, steps, correction: 0 });
}

// GD++, which after every step transforms the inputs, x <- (I - γ XᵀX/n) x.
function gdPlusPlusFilter(lambda, { rate, steps, correction }) {
  let g = 0, transform = 1;
  for (let step = 0; step < steps; step++) {
    g += rate * transform ** 2 * (1 - lambda * g);
    transform *= 1 - correction * transform ** 2 * lambda;
  }
  return g;
}

// Newton's iteration for the inverse, from aλ/λ_max²: (1 - (1 - aλ²/λ_max²)^(2^k)) / λ.
function newtonFilter(lambda, { steps, scale, largest }) {
  let g = (scale * lambda) / largest ** 2;
  for (let step = 0; step < steps; step++) g = 2 * g - g * g * lambda;
  return g;
}

// Chebyshev's descent for eigenvalues from l to u: of all polynomials of degree k that are 1 at 0,
// 1 - λ g(λ) has the smallest maximum on [l, u].
function chebyshevFilter(lambda, { steps, lower, upper }) {
  const ratio = (Math.sqrt(upper) - Math.sqrt(lower)) / (Math.sqrt(upper) + Math.sqrt(lower));
  let g = 0, before = 0, rhoBefore = 0;
  for (let step = 0; step < steps; step++) {
    const rho = (ratio * (1 + ratio ** (2 * step))) / (1 + ratio ** (2 * step + 2)); // T_k / T_(k+1)
    const rate = step ? (4 * rho) / (upper - lower) : 2 / (upper + lower);
    const after = g + rate * (1 - lambda * g) + rho * rhoBefore * (g - before);
    [before, g, rhoBefore] = [g, after, rho];
  }
  return g;
}

// Ridge regression with the penalty on Σ_i ‖w·x_i - y_i‖² divided by n.
const ridgeFilter = (lambda, { penalty }) => 1 / (lambda + penalty);

const leastSquaresFilter = (lambda) => (lambda > 0 ? 1 / lambda : 0);
