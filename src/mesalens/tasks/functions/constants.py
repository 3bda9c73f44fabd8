"""Constant functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.tasks.functions.base import IsotropicFunctions, RandomKey


class Constants(IsotropicFunctions):
    """f(x) = c,  c ~ N(0, scale² I_m): labels do not depend on x.

    Sign-symmetric and rotation-invariant.
    """

    def __call__(
        self, key: RandomKey, xs: Float[Array, "*shape n d"]
    ) -> Float[Array, "*shape n m"]:
        constants = self.scale * jax.random.normal(key, (*xs.shape[:-2], 1, self.outputs))
        return jnp.broadcast_to(constants, (*xs.shape[:-1], self.outputs))

    @property
    def sign_symmetric(self) -> bool:
        return True
