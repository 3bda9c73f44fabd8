"""A finite number of linear functions, drawn once."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import count
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


class FinitePool(Functions):
    """f(x) = W_j x,  j uniform over a pool of M = `size` weight matrices.

    The entries of the pool were drawn once, independently from N(0, scale²), with `pool_seed`; the
    key of a batch only chooses j. As M grows the prior comes to that of `LinearFunctions`. With
    Gaussian noise the Bayes predictor is `mesalens.learners.DiscreteBayes` with this pool.

    Neither sign-symmetric nor rotation-invariant: -W_j is not in the pool.

    Args:
        size: M.
        pool_seed: of the pool, from 0 to 2³² - 1. The pool depends on it, the sizes and `scale`
            alone.

    Raises:
        ValueError: if the size is below 1 or the seed is out of range.

    Source: Raventós, Paul, Chen and Ganguli (2023), arXiv 2306.15063 (m = 1).
    """

    size: int = eqx.field(static=True, kw_only=True)
    pool_seed: int = eqx.field(static=True, default=0, kw_only=True)

    def __check_init__(self):
        count("size", self.size)
        count("pool_seed", self.pool_seed, at_least=0, at_most=2**32 - 1)

    @property
    def pool(self) -> Float[Array, "M m d"]:
        """W_1, …, W_M, float32, `scale` included."""
        # JAX's own generator, and 32 bits: the same pool on every backend and in every precision
        key = jax.random.key(self.pool_seed, impl="threefry2x32")
        shape = (self.size, self.outputs, self.dim)
        return self.scale * jax.random.normal(key, shape, jnp.float32)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        chosen = jax.random.randint(key, xs.shape[:-2], 0, self.size)
        return jnp.einsum("...nd,...md->...nm", xs, self.pool[chosen])
