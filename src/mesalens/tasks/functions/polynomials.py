"""A polynomial in random orthonormal coordinates."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens.checks import InputError, count, finite
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


def _as_pairs(terms: Any) -> tuple[tuple[float, tuple[int, ...]], ...]:
    try:
        return tuple((float(coefficient), tuple(powers)) for coefficient, powers in terms)
    except (TypeError, ValueError):
        raise InputError(
            f"terms must be pairs of a coefficient and powers, such as ((1.0, (3,)), (-1.0, (1,))) "
            f"for z_1³ - z_1; got {terms!r}."
        ) from None


class RotatedPolynomials(Functions):
    r"""A polynomial in random orthonormal coordinates: f(x) = scale p(U x), U uniform on O(d).

    $$p(z) = \sum_t c_t \prod_i z_i^{k_{ti}}$$

    Each of the m outputs has its own U. Only the rows of U that p uses are drawn.
    Rotation-invariant; sign-symmetric if every term has odd degree, as -U is as likely as U.

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        terms: The pairs (c_t, k_t). Coordinates past the end of k_t have power 0. By default
            `p(z) = z_1³ - z_1`.

    Raises:
        ValueError: If there is no term, a coefficient is not finite, or the powers of a term are
            not at most d integers of at least 0.
    """

    terms: tuple[tuple[float, tuple[int, ...]], ...] = eqx.field(
        converter=_as_pairs, static=True, default=((1.0, (3,)), (-1.0, (1,))), kw_only=True
    )

    rotation_invariant = True

    def __check_init__(self):
        if not self.terms:
            raise InputError("terms must have at least one pair of a coefficient and powers.")
        for coefficient, powers in self.terms:
            finite("a coefficient of terms", coefficient)
            used = len(powers)
            if used > self.dim:
                raise InputError(f"terms must have at most dim={self.dim} powers each; got {used}.")
            for power in powers:
                count("a power of terms", power, at_least=0)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        used = max(1, *(len(powers) for _, powers in self.terms))
        columns = jax.random.orthogonal(key, self.dim, (*xs.shape[:-2], self.outputs), m=used)
        z = jnp.einsum("...nd,...mdi->i...nm", xs, columns)
        values = jnp.zeros(z.shape[1:])
        for coefficient, powers in self.terms:
            values += coefficient * math.prod(z[i] ** power for i, power in enumerate(powers))
        return self.scale * values

    @property
    def sign_symmetric(self) -> bool:
        return all(sum(powers) % 2 == 1 for _, powers in self.terms)
