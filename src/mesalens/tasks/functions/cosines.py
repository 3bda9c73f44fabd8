"""Plane waves."""

import math

import equinox as eqx
import jax.numpy as jnp

from mesalens.checks import finite, scale
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels
from mesalens.tasks.functions.linear import LinearFunctions


class Cosines(Functions):
    """Plane waves: f(x) = scale cos(frequency w · x + phase) with w ~ N(0, I / d).

    Each of the m outputs has its own w. They are rotation-invariant. They are sign-symmetric only
    if cos(phase) = 0, as for phase ± π/2, because changing w to -w keeps the part cos(phase)
    cos(frequency w · x).

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        frequency: The factor of w · x.
        phase: The phase, in radians.

    Raises:
        ValueError: If `frequency` is not from 1e-8 to 1e8, or `phase` is not finite.
    """

    frequency: float = eqx.field(default=1.0, kw_only=True)
    phase: float = eqx.field(static=True, default=0.0, kw_only=True)

    rotation_invariant = True

    def __check_init__(self):
        scale("frequency", self.frequency)
        finite("phase", self.phase)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        projections = LinearFunctions(self.dim, self.outputs, scale=self.dim**-0.5)(key, xs)
        return self.scale * jnp.cos(self.frequency * projections + self.phase)

    @property
    def sign_symmetric(self) -> bool:
        return abs(math.cos(self.phase)) < 1e-12  # the π/2 of floating point has cosine 6e-17
