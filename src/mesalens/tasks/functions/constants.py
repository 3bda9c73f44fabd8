"""Constant functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.tasks.functions.base import Functions, KeyArray


class Constants(Functions):
    """f(x) = c,  c ~ N(0, scale² I_m): labels do not depend on x.

    Sign-symmetric and rotation-invariant.
    """

    sign_symmetric = rotation_invariant = True

    def __call__(self, key: KeyArray, xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        constants = self.scale * jax.random.normal(key, (*xs.shape[:-2], 1, self.outputs))
        return jnp.broadcast_to(constants, (*xs.shape[:-1], self.outputs))
