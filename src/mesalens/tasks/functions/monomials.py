"""Powers of a random projection."""

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.checks import count
from mesalens.tasks.functions.base import Functions
from mesalens.tasks.functions.linear import LinearFunctions


class Monomials(Functions):
    """f(x) = scale (w · x)^degree,  w ~ N(0, I / d),  one w for each of the m outputs.

    Sign-symmetric where the degree is odd; rotation-invariant.

    Raises `ValueError` where the degree is below 1.
    """

    degree: int = eqx.field(static=True, default=3, kw_only=True)

    def __check_init__(self):
        count("the degree", self.degree)

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        return self.scale * LinearFunctions(self.dim, self.outputs, scale=self.dim**-0.5)(key, xs) ** self.degree

    @property
    def sign_symmetric(self) -> bool:
        return self.degree % 2 == 1

    @property
    def rotation_invariant(self) -> bool:
        return True
