"""Least squares on the principal components of the context's inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mesalens.learners._counts import require_count
from mesalens.learners.base import Learner
from mesalens.prompt import AnyPrompt


class PrincipalComponentRegression(Learner):
    r"""Least squares on the k leading eigenvectors of `X^T X`.

    $$X^T X = U \Lambda U^T, \qquad \hat y = Y^T X \, U_k \Lambda_k^{-1} U_k^T x_\text{query}$$

    U_k has the eigenvectors of the k largest eigenvalues. Among the W whose rows are in their span,
    `ŷ = W x_query` has the W that minimises `Σ_i ‖W x_i - y_i‖²`. Inputs are not centred.

    With k = d it is [`LeastSquares`][mesalens.learners.LeastSquares]. Ridge regression and gradient
    descent shrink the directions of small eigenvalues; this learner drops them. Eigenvectors and
    eigenvalues are computed from singular vectors and values of X. A direction whose singular value
    is at most `max(n, d) eps` times the largest, which is rounding error, is dropped, as in
    `LeastSquares`; hence more components than the rank of X change nothing. The k-th and the next
    eigenvalue should differ: where they are equal, the prediction depends on the basis, and has no
    derivative.

    Attributes:
        components: k, from 1 to d. If JAX is tracing it, its range is not checked.

    Raises:
        ValueError: If the number of components is not from 1 to d.

    Source: Massy (1965); Hastie, Tibshirani and Friedman, The Elements of Statistical Learning
    (2009), Section 3.5.1.
    """

    sees_only_sum = True

    components: int | Int[Array, ""]

    def __check_init__(self):
        require_count("components", self.components)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        require_count("components", self.components, at_most=prompt.dim)
        X, Y = prompt.rows
        return Y.T @ (_truncated_inverse(X, self.components).T @ prompt.query)

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        d = eigenvalues.shape[-1]
        rounding = np.finfo(float).eps * d * eigenvalues[..., -1:]
        kept = (np.arange(d) >= d - int(self.components)) & (eigenvalues > rounding)
        return np.where(kept, 1 / np.where(kept, eigenvalues, 1), 0)


@jax.custom_jvp
def _truncated_inverse(X: Array, components: Any) -> Array:
    """`U_k Λ_k^-1 U_k^T X^T`, of shape (d, n)."""
    left, values, right, kept = _singular(X, components)
    inverses = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    return (right.T * inverses) @ left.T


@_truncated_inverse.defjvp
def _derivative(primals, tangents):
    """The Daleckii-Krein formula for the function of `X^T X` that is 1/λ on k eigenvalues, else 0.

    JAX's derivative of singular vectors is not finite where any two singular values are equal.
    """
    (X, components), (change, _) = primals, tangents
    d = X.shape[1]
    values, axes = jnp.linalg.eigh(X.T @ X)
    kept = jnp.arange(d) >= d - jnp.sum(_singular(X, components)[-1])
    inverses = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    # Of an eigenvalue that is kept and one that is not, (1/λ - 0) / (λ - λ'); kept ones come last
    gaps = values[:, None] - values
    cut = (kept[:, None] != kept) & (gaps != 0)
    across = (inverses[:, None] - inverses) / jnp.where(cut, gaps, 1)
    quotients = jnp.where(cut, across, -inverses[:, None] * inverses)
    moved = axes.T @ (X.T @ change + change.T @ X) @ axes
    of_square = axes @ (quotients * moved) @ axes.T
    tangent = of_square @ X.T + (axes * inverses) @ axes.T @ change.T
    return _truncated_inverse(X, components), tangent


def _singular(X: Array, components: Any) -> tuple[Array, Array, Array, Array]:
    """Singular vectors and values of X, and which are kept."""
    left, values, right = jnp.linalg.svd(X, full_matrices=False)
    rounding = max(X.shape) * jnp.finfo(X.dtype).eps * values[0]
    kept = (jnp.arange(len(values)) < components) & (values > rounding)
    return left, values, right, kept
