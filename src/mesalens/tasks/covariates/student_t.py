"""Student-t covariates: tails so heavy that few moments are finite, or none."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, positive
from mesalens.tasks.covariates.base import IndependentCovariates


class StudentT(IndependentCovariates):
    """x_i / scale ~ t with ν = `degrees_of_freedom`, independent. E|x|^k is finite for k < ν.

        c2 = scale² ν / (ν - 2),    c3 = 0,    c4 = 3 scale⁴ ν² / ((ν - 2) (ν - 4)),    for ν > 4

    Drawn by Bailey's polar method (Mathematics of Computation 62, 1994): with E ~ Exp(1) and a uniform angle θ,

        x = scale √(ν (exp(2 E / ν) - 1)) cos θ.

    Raises `ValueError` where ν is not positive, and `central_moments` where ν ≤ 4.
    """

    degrees_of_freedom: float = eqx.field(static=True, default=5.0, kw_only=True)

    def __check_init__(self):
        positive("the degrees of freedom", self.degrees_of_freedom)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        near_key, far_key, angle_key = jax.random.split(key, 3)
        near, far = (jax.random.exponential(k, (*shape, self.dim)) for k in (near_key, far_key))
        exponential = jnp.where(
            near < 8, near, 8 + far
        )  # memoryless; one float32 draw ends at 16, and cuts the moments
        radius = jnp.sqrt(self.degrees_of_freedom * jnp.expm1(2 / self.degrees_of_freedom * exponential))
        angle = jax.random.uniform(angle_key, radius.shape, maxval=2 * jnp.pi)
        return self.scale * radius * jnp.cos(angle)

    def central_moments(self) -> tuple[float, float, float, float]:
        nu = self.degrees_of_freedom
        if nu <= 4:
            raise InputError(
                f"{type(self).__name__} with {nu:g} degrees of freedom has no finite fourth moment, on which the exact "
                "theory rests; give more than 4 degrees of freedom."
            )
        return 0.0, self.scale**2 * nu / (nu - 2), 0.0, 3 * self.scale**4 * nu**2 / ((nu - 2) * (nu - 4))

    @property
    def finite_moments(self) -> float:
        return self.degrees_of_freedom


class Cauchy(StudentT):
    """x_i / scale ~ Cauchy: Student's t with ν = 1. It can be sampled; no moment exists, so the exact theory refuses it."""

    def __init__(self, dim: int, scale: float = 1.0):
        super().__init__(dim, scale, degrees_of_freedom=1.0)
