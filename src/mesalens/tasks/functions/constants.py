"""Constant functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.tasks.functions.base import Functions


class Constants(Functions):
    """f(x) = c,  c ~ N(0, scale² I_m): the label tells nothing of x. With the noise of a task, noisy constants.

    Sign-symmetric and rotation-invariant.
    """

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        constants = self.scale * jax.random.normal(key, (*xs.shape[:-2], 1, self.outputs))
        return jnp.broadcast_to(constants, (*xs.shape[:-1], self.outputs))

    @property
    def sign_symmetric(self) -> bool:
        return True

    @property
    def rotation_invariant(self) -> bool:
        return True
