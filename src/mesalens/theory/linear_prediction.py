"""The best predictor that is linear in given features of the context, times the query."""

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-12
"""Eigenvalues of the correlations below this share of the largest count as zero."""


def best_linear(
    second: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "p r m"],
    query: Float[np.ndarray, "r r"],
    joint: Float[np.ndarray, "p r p r"] | None = None,
) -> tuple[Float[np.ndarray, "p r m"], float]:
    """Least squares: the weights Γ of least risk in `ŷ_k = Γ_k · (φ ⊗ z_q)`, and what they explain.

        Γ = E[φ φ^T]^+ E[φ ⊗ z_q ⊗ y_q] E[z z^T]^+,      R = E‖y‖² - explained,
        explained = Γ · cross

    for features φ that are independent of z_q; for others the products φ ⊗ z_q are the features.
    Features, or inputs, that depend on each other linearly get the weights of least norm, after
    each is scaled to unit variance.

    Args:
        second: E[φ φ^T].
        cross: E[φ ⊗ z_q ⊗ y_q].
        query: E[z z^T].
        joint: E[φ φ^T ⊗ z z^T], if it is not `second ⊗ query`.
    """
    if joint is not None:
        shape, products = cross.shape, cross.shape[0] * cross.shape[1]
        of_products = whitening(joint.reshape(products, products))
        whitened = of_products @ cross.reshape(products, -1)
        return (of_products.T @ whitened).reshape(shape), float(np.sum(whitened**2))
    of_features, of_query = whitening(second), whitening(query)
    whitened = np.einsum("ap,prk,br->abk", of_features, cross, of_query, optimize=True)
    weights = np.einsum("ap,abk,br->prk", of_features, whitened, of_query, optimize=True)
    return weights, float(np.sum(whitened**2))


def whitening(second: Float[np.ndarray, "p p"]) -> Float[np.ndarray, "k p"]:
    """H with `H second H^T = I` and H^T H a pseudo-inverse of `second`."""
    scale = np.sqrt(np.diag(second))
    scale[scale == 0] = np.inf  # such a feature is always 0
    eigenvalues, vectors = np.linalg.eigh(second / np.outer(scale, scale))
    spanned = eigenvalues > ROUNDING * max(eigenvalues[-1], 0)
    return (vectors[:, spanned] / np.sqrt(eigenvalues[spanned])).T / scale
