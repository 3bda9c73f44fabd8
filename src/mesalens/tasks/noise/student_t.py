"""Student-t noise: heavy tails."""

import equinox as eqx
from jaxtyping import Array, Float

from mesalens.checks import InputError, positive
from mesalens.tasks._law import require_moments
from mesalens.tasks.covariates.student_t import student_t
from mesalens.tasks.noise.base import KeyArray, ScaledNoise


class StudentTNoise(ScaledNoise):
    """Student-t noise with ν degrees of freedom, scaled to a given variance, for every label.

    E|ε|^k is finite for k < ν, so that ν has to be above 2. For ν > 4, `κ4 = 6 variance² / (ν -
    4)`.

    Attributes:
        variance: The variance of the noise.
        degrees_of_freedom: ν, above 2.

    Raises:
        ValueError: If `degrees_of_freedom` is not above 2, or `variance` is out of range.
    """

    degrees_of_freedom: float = eqx.field(static=True, default=5.0)

    def __check_init__(self):
        if (nu := positive("degrees_of_freedom", self.degrees_of_freedom)) <= 2:
            raise InputError(f"degrees_of_freedom must be above 2; got {nu!r}.")

    def standard(self, key: KeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        nu = self.degrees_of_freedom
        return student_t(key, nu, shape, ((nu - 2) / nu) ** 0.5)

    def fourth_cumulant(self) -> float:
        require_moments(self)
        return 6 * float(self.variance) ** 2 / (self.degrees_of_freedom - 4)

    @property
    def finite_moments(self) -> float:
        return self.degrees_of_freedom
