"use strict";
// Small dense matrices. A matrix of n rows is a flat array, row by row.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const range = (n) => Array.from({ length: n }, (_, i) => i);

// C = op(A) op(B), where A is rows × inner (inner × rows if transposed), and so on.
function product(A, B, rows, inner, columns, { left = false, right = false } = {}) {
  const C = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) {
      let total = 0;
      for (let k = 0; k < inner; k++)
        total += A[left ? k * rows + i : i * inner + k] * B[right ? j * inner + k : k * columns + j];
      C[i * columns + j] = total;
    }
  return C;
}

// The inverse, by Gauss and Jordan's elimination with partial pivoting.
function inverse(matrix, n) {
  const rows = range(n).map((i) => [...matrix.slice(i * n, i * n + n), ...range(n).map((j) => +(i === j))]);
  for (let c = 0; c < n; c++) {
    let pivot = c;
    for (let r = c + 1; r < n; r++) if (Math.abs(rows[r][c]) > Math.abs(rows[pivot][c])) pivot = r;
    [rows[c], rows[pivot]] = [rows[pivot], rows[c]];
    const scale = rows[c][c];
    rows[c] = rows[c].map((value) => value / scale);
    for (let r = 0; r < n; r++) {
      const factor = rows[r][c];
      if (r !== c && factor) rows[r] = rows[r].map((value, j) => value - factor * rows[c][j]);
    }
  }
  return rows.flatMap((row) => row.slice(n));
}

// Eigenvalues and eigenvectors (in columns) of a symmetric matrix, by Jacobi's rotations.
function eigen(symmetric, n) {
  const A = Float64Array.from(symmetric), V = new Float64Array(n * n);
  for (let i = 0; i < n; i++) V[i * n + i] = 1;
  const rotate = (M, i, j, k, l, s, tau) => {
    const g = M[i * n + j], h = M[k * n + l];
    M[i * n + j] = g - s * (h + g * tau);
    M[k * n + l] = h + s * (g - h * tau);
  };
  for (let sweep = 0; sweep < 50; sweep++) {
    let off = 0, size = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j <= i; j++) {
        size += A[i * n + j] ** 2;
        if (j < i) off += A[i * n + j] ** 2;
      }
    if (off <= 1e-30 * size) break;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        const apq = A[p * n + q];
        if (apq === 0) continue;
        const theta = (A[q * n + q] - A[p * n + p]) / (2 * apq);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c, tau = s / (1 + c);
        A[p * n + p] -= t * apq;
        A[q * n + q] += t * apq;
        A[p * n + q] = 0;
        for (let j = 0; j < p; j++) rotate(A, j, p, j, q, s, tau);
        for (let j = p + 1; j < q; j++) rotate(A, p, j, j, q, s, tau);
        for (let j = q + 1; j < n; j++) rotate(A, p, j, q, j, s, tau);
        for (let j = 0; j < n; j++) rotate(V, j, p, j, q, s, tau);
      }
  }
  return { values: range(n).map((i) => A[i * n + i]), vectors: V };
}
