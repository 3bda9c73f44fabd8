"""Student-t covariates: tails so heavy that few moments are finite, or none."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import positive
from mesalens.tasks._law import require_moments
from mesalens.tasks.covariates.base import IndependentCovariates


class StudentT(IndependentCovariates):
    r"""Student-t covariates: the x_i / scale are independent, with ν degrees of freedom.

    E|x|^k is finite for k < ν. For ν > 4,

    $$c_2 = \text{scale}^2 \frac{\nu}{\nu - 2}, \qquad c_3 = 0, \qquad
    c_4 = \frac{3 \, \text{scale}^4 \nu^2}{(\nu - 2) (\nu - 4)}.$$

    Attributes:
        dim: d, the number of entries of x.
        scale: A factor of every draw.
        degrees_of_freedom: ν, positive.

    Raises:
        ValueError: If `degrees_of_freedom` is not positive; from the moments, if it is at most 4.
    """

    degrees_of_freedom: float = eqx.field(static=True, default=5.0, kw_only=True)

    def __check_init__(self):
        positive("degrees_of_freedom", self.degrees_of_freedom)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return student_t(key, self.degrees_of_freedom, (*shape, self.dim), self.scale)

    def central_moments(self) -> tuple[float, float, float, float]:
        require_moments(self)
        nu, variance = self.degrees_of_freedom, self.scale**2
        return 0.0, variance * nu / (nu - 2), 0.0, 3 * variance**2 * nu**2 / ((nu - 2) * (nu - 4))

    @property
    def finite_moments(self) -> float:
        return self.degrees_of_freedom


class Cauchy(StudentT):
    """Cauchy covariates: Student's t with ν = 1, which has no moments and no exact theory."""

    def __init__(self, dim: int, scale: float = 1.0):
        super().__init__(dim, scale, degrees_of_freedom=1.0)


def student_t(
    key: Key[Array, ""], nu: float, shape: tuple[int, ...], scale: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Independent draws of Student's t times `scale`, by Bailey's polar method.

    With E ~ Exp(1), a uniform angle θ and ν = `nu` degrees of freedom:
    `scale √(ν (exp(2 E / ν) - 1)) cos θ`.

    Source: Bailey, Mathematics of Computation 62 (1994).
    """
    near_key, far_key, angle_key = jax.random.split(key, 3)
    near, far = (jax.random.exponential(part, shape) for part in (near_key, far_key))
    # One float32 exponential ends at 16, which would cut the moments; the law has no memory
    exponential = jnp.where(near < 8, near, 8 + far)
    radius = jnp.sqrt(nu * jnp.expm1(2 / nu * exponential))
    return scale * radius * jnp.cos(jax.random.uniform(angle_key, shape, maxval=2 * jnp.pi))
