"""Constant functions."""

import jax
import jax.numpy as jnp

from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


class Constants(Functions):
    """Constant functions: f(x) = c with c ~ N(0, scale² I_m).

    Sign-symmetric and rotation-invariant.
    """

    sign_symmetric = rotation_invariant = True

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        constants = self.scale * jax.random.normal(key, (*xs.shape[:-2], 1, self.outputs))
        return jnp.broadcast_to(constants, (*xs.shape[:-1], self.outputs))
