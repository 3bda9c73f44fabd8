"""Powers of a random projection."""

import equinox as eqx

from mesalens.checks import count
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels
from mesalens.tasks.functions.linear import LinearFunctions


class Monomials(Functions):
    """Powers of a projection: f(x) = scale (w · x)^degree with w ~ N(0, I / d) for each output.

    Rotation-invariant; sign-symmetric if the degree is odd.

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        degree: The power.

    Raises:
        ValueError: If `degree` is below 1.
    """

    degree: int = eqx.field(static=True, default=3, kw_only=True)

    rotation_invariant = True

    def __check_init__(self):
        count("degree", self.degree)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        projections = LinearFunctions(self.dim, self.outputs, scale=self.dim**-0.5)(key, xs)
        return self.scale * projections**self.degree

    @property
    def sign_symmetric(self) -> bool:
        return self.degree % 2 == 1
