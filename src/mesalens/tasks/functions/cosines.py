"""Plane waves."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import finite, positive
from mesalens.tasks.functions.base import Functions
from mesalens.tasks.functions.linear import LinearFunctions


class Cosines(Functions):
    """f(x) = scale cos(frequency w · x + phase),  w ~ N(0, I / d),  one w for each of the m outputs.

    Changing w to -w leaves the part cos(phase) cos(frequency w · x) as it is, so these are sign-symmetric only where
    cos(phase) = 0, as for the sines of phase ± π/2. Rotation-invariant.

    Raises `ValueError` where the frequency is not positive.
    """

    frequency: float = eqx.field(default=1.0, kw_only=True)
    phase: float = eqx.field(static=True, default=0.0, kw_only=True)

    def __check_init__(self):
        positive("the frequency", self.frequency)
        finite("the phase", self.phase)

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        projections = LinearFunctions(self.dim, self.outputs, scale=self.dim**-0.5)(key, xs)
        return self.scale * jnp.cos(self.frequency * projections + self.phase)

    @property
    def sign_symmetric(self) -> bool:
        return abs(math.cos(self.phase)) < 1e-12  # the π/2 of floating point has cosine 6e-17

    @property
    def rotation_invariant(self) -> bool:
        return True
