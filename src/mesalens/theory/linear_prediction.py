"""The best predictor that is linear in given features of the context, times the query."""

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-12
"""Eigenvalues of the features' correlations below this share of the largest are rounding, and the direction is empty."""


def best_linear(
    second: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "p r m"], query: Float[np.ndarray, "r r"]
) -> tuple[Float[np.ndarray, "p r m"], float]:
    """Least squares: the weights Γ of `ŷ_k = Γ_k · (φ ⊗ z_q)` with the least risk, and how much they explain.

        Γ = E[φ φ^T]^+ E[φ ⊗ z_q ⊗ y_q] E[z z^T]^-1,      R = E‖y‖² - explained,      explained = Γ · cross

    for features φ that are independent of z_q (`second`, `cross` and `query` are the three expectations). Features that
    depend on each other linearly get the weights of least norm, after each is scaled to unit variance.
    """
    scale = np.sqrt(np.diag(second))
    scale[scale == 0] = np.inf  # such a feature is always 0
    eigenvalues, vectors = np.linalg.eigh(second / np.outer(scale, scale))
    kept = eigenvalues > ROUNDING * max(eigenvalues[-1], 0)
    half = (vectors[:, kept] / np.sqrt(eigenvalues[kept])).T / scale
    root = np.linalg.cholesky(query)  # E[z z^T] is well conditioned: see ContextMoments
    whitened = np.linalg.solve(root, np.moveaxis(np.tensordot(half, cross, 1), 1, 0).reshape(len(query), -1))
    weights = np.linalg.solve(root.T, whitened).reshape(len(query), -1, cross.shape[2])
    return np.tensordot(half.T, np.moveaxis(weights, 0, 1), 1), float(np.sum(whitened**2))
