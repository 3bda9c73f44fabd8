"use strict";
// One layer of linear self-attention with H heads, e_q <- e_q + Σ_h B_h S A_h e_q, S = Σ_i e_i e_iᵀ,
// e = (x, y), whose prediction is minus the label of the query token: its exact risk and slopes.
//
// Only the last row of B_h, (b_x, b_y), and the columns of A_h that read x, A_xx and the row a that
// reads y, matter. With Γ = -Σ_h (b_y A_xx + b_x a), G = -Σ_h b_x ⊗ A_xx and c = -Σ_h b_y a
//   ŷ = sᵀ Γ x_q + G(S_xx, x_q) + S_yy c·x_q,
// where the first term is odd in the labels and the others are even. So their product has mean 0,
// only the first meets the target, and all second moments are diagonal (task.js).

function layerRisk(t, m, heads, A, B, slopes) {
  const { d, n, noise, sigma, lambda } = t, D = d + 1, signal = m.null - noise;
  const Gamma = new Float64Array(d * d), G = new Float64Array(d * d * d), c = new Float64Array(d);
  const b = (h, i) => B[(h * D + d) * D + i], a = (h, i, k) => A[(h * D + i) * D + k];
  for (let h = 0; h < heads; h++)
    for (let k = 0; k < d; k++) {
      c[k] -= b(h, d) * a(h, d, k);
      for (let i = 0; i < d; i++) {
        Gamma[i * d + k] -= b(h, d) * a(h, i, k) + b(h, i) * a(h, d, k);
        for (let j = 0; j < d; j++) G[(i * d + j) * d + k] -= b(h, i) * a(h, j, k);
      }
    }

  let risk = m.null;
  const dGamma = new Float64Array(d * d), dG = new Float64Array(d * d * d), dc = new Float64Array(d);
  for (let i = 0; i < d; i++) {
    risk -= 2 * m.labels[i] * Gamma[i * d + i];
    for (let k = 0; k < d; k++) {
      const slope = m.squares[i] * m.inputs[k] * Gamma[i * d + k];
      risk += slope * Gamma[i * d + k];
      dGamma[i * d + k] = 2 * slope - (i === k ? 2 * m.labels[i] : 0);
    }
  }
  // E S_yy² = n (n + 2) E v², v = wᵀΣw + σ², and E S_yy S_ii = Σ_i (n² E y² + 2n (ΣΛ)_i)
  const labelSquare = n * (n + 2) * (m.null ** 2 + 2 * sum(sigma.map((s, i) => (s * lambda[i]) ** 2)));
  const labelInput = sigma.map((s, i) => s * (n * n * (signal + noise) + 2 * n * s * lambda[i]));
  for (let k = 0; k < d; k++) {
    const M = m.inputs[k];
    let trace = 0, mixed = 0; // Σ_i Σ_ii G_iik, and the product of G's term with S_yy
    for (let i = 0; i < d; i++) {
      trace += sigma[i] * G[(i * d + i) * d + k];
      mixed += labelInput[i] * G[(i * d + i) * d + k];
    }
    risk += M * (n * n * trace ** 2 + 2 * c[k] * mixed + labelSquare * c[k] ** 2);
    dc[k] = 2 * M * (mixed + labelSquare * c[k]);
    for (let i = 0; i < d; i++) {
      dG[(i * d + i) * d + k] += 2 * M * (n * n * trace * sigma[i] + c[k] * labelInput[i]);
      for (let j = 0; j < d; j++) { // the spread of S_ij: n Σ_i Σ_j, twice that if i = j
        const both = G[(i * d + j) * d + k] + G[(j * d + i) * d + k];
        risk += M * n * sigma[i] * sigma[j] * both ** 2 / 2;
        dG[(i * d + j) * d + k] += 2 * M * n * sigma[i] * sigma[j] * both;
      }
    }
  }
  if (!slopes) return risk;

  const [dA, dB] = slopes;
  dA.fill(0);
  dB.fill(0);
  for (let h = 0; h < heads; h++) {
    const row = (h * D + d) * D;
    for (let k = 0; k < d; k++) {
      dA[row + k] -= b(h, d) * dc[k];
      dB[row + d] -= dc[k] * a(h, d, k);
      for (let i = 0; i < d; i++) {
        dA[(h * D + i) * D + k] -= b(h, d) * dGamma[i * d + k];
        dA[row + k] -= b(h, i) * dGamma[i * d + k];
        dB[row + d] -= dGamma[i * d + k] * a(h, i, k);
        dB[row + i] -= dGamma[i * d + k] * a(h, d, k);
        for (let j = 0; j < d; j++) {
          dA[(h * D + j) * D + k] -= b(h, i) * dG[(i * d + j) * d + k];
          dB[row + i] -= dG[(i * d + j) * d + k] * a(h, j, k);
        }
      }
    }
  }
  return risk;
}

// The step P of the prediction x_qᵀ P s that the layer makes: Γᵀ.
function stepOf(d, heads, A, B) {
  const P = new Float64Array(d * d), D = d + 1;
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < d; i++)
      for (let k = 0; k < d; k++)
        P[k * d + i] -= B[(h * D + d) * D + d] * A[(h * D + i) * D + k]
          + B[(h * D + d) * D + i] * A[(h * D + d) * D + k];
  return P;
}
