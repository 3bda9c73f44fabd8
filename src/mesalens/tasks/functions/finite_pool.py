"""A finite number of linear functions, drawn once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.memory import require_memory
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


def _matrices(values: Any) -> Any:
    """Weights of one output may be rows."""
    if values is None or not isinstance(values, list | tuple | np.ndarray):
        return values
    array = np.asarray(values, np.float64)
    return array[:, None, :] if array.ndim == 2 else array


class FinitePool(Functions):
    """A finite number of linear functions: f(x) = W_j x with j uniform over a pool of M matrices.

    By default the entries of the pool are drawn once, independently from N(0, scale²), with
    `pool_seed`; the key of a batch chooses only j. As M grows, the prior approaches that of
    [`LinearFunctions`][mesalens.tasks.LinearFunctions]. With Gaussian noise the Bayes predictor is
    [`DiscreteBayes`][mesalens.learners.DiscreteBayes] with this pool.

    No symmetry is claimed: -W_j need not be in the pool.

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every matrix.
        size: M, the number of matrices.
        pool_seed: The seed of the pool, from 0 to 2³² - 1. The pool depends only on it, the sizes
            and `scale`.
        weights: W_1, …, W_M before scaling, of shape (M, m, d), or (M, d) for one output. By
            default they are drawn.

    Raises:
        ValueError: If the size is below 1, or the pool is larger than memory; the seed is out of
            range; or the weights have another shape or are not finite.

    Source: Raventós, Paul, Chen and Ganguli (2023), arXiv 2306.15063 (m = 1).

    Examples:
        >>> from mesalens import tasks
        >>> tasks.FinitePool(5, size=64).pool.shape
        (64, 1, 5)
        >>> tasks.FinitePool.of([[1.0, 0.0], [0.0, 1.0]]).size
        2
    """

    size: int = eqx.field(static=True, kw_only=True)
    pool_seed: int = eqx.field(static=True, default=0, kw_only=True)
    weights: Float[np.ndarray, "M m d"] | None = eqx.field(
        converter=_matrices, default=None, kw_only=True
    )

    @classmethod
    def of(cls, weights: Any) -> "FinitePool":
        """The pool of given weights.

        Args:
            weights: W_1, …, W_M, of shape (M, m, d), or (M, d) for one output.
        """
        pool = _matrices(np.asarray(weights))
        return cls(pool.shape[2], pool.shape[1], size=len(pool), weights=pool)

    def __check_init__(self):
        count("size", self.size)
        require_memory(f"size: a pool of {self.size}", 4.0 * self.size * self.outputs * self.dim)
        if self.weights is not None:
            expected = (self.size, self.outputs, self.dim)
            if self.weights.shape != expected:
                raise InputError(f"weights must have shape {expected}; got {self.weights.shape}.")
            if isinstance(self.weights, np.ndarray) and not np.isfinite(self.weights).all():
                raise InputError("weights must be finite.")
        count("pool_seed", self.pool_seed, at_least=0, at_most=2**32 - 1)

    @property
    def pool(self) -> Float[Array, "M m d"]:
        """W_1, …, W_M with `scale` included, float32, of shape (M, m, d)."""
        if self.weights is not None:
            return self.scale * jnp.asarray(self.weights, jnp.float32)
        # JAX's own generator, and 32 bits: the same pool on every backend and in every precision
        key = jax.random.key(self.pool_seed, impl="threefry2x32")
        shape = (self.size, self.outputs, self.dim)
        return self.scale * jax.random.normal(key, shape, jnp.float32)

    def matrices(self) -> Float[np.ndarray, "M m d"]:
        """W_1, …, W_M with `scale` included, in float64, for exact results."""
        if self.weights is None:
            return np.asarray(self.pool, np.float64)
        return float(self.scale) * self.weights

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        chosen = jax.random.randint(key, xs.shape[:-2], 0, self.size)
        return jnp.einsum("...nd,...md->...nm", xs, self.pool[chosen])
