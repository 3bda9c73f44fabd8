"""A polynomial in random orthonormal coordinates."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, finite
from mesalens.tasks.functions.base import Functions


def _as_pairs(terms: Any) -> tuple[tuple[float, tuple[int, ...]], ...]:
    try:
        return tuple((float(coefficient), tuple(powers)) for coefficient, powers in terms)
    except (TypeError, ValueError):
        raise InputError(
            "the terms are not pairs of a coefficient and powers; write z_1³ - z_1 as ((1.0, (3,)), (-1.0, (1,)))."
        ) from None


class RotatedPolynomials(Functions):
    """f(x) = scale p(U x),  U ∈ O(d) Haar-distributed, one U for each of the m outputs,  p(z) = Σ_t c_t Π_i z_i^{k_ti}.

    `terms` are the pairs (c_t, k_t); coordinates past the end of k_t have power 0. Left out, p(z) = z_1³ - z_1. Of U only the
    rows that p uses are drawn.

    Sign-symmetric where every term has odd degree, as -U is as likely as U; rotation-invariant.

    Raises `ValueError` where there is no term, a coefficient is not finite, or the powers are not at most d whole numbers ≥ 0.
    """

    terms: tuple[tuple[float, tuple[int, ...]], ...] = eqx.field(
        converter=_as_pairs, static=True, default=((1.0, (3,)), (-1.0, (1,))), kw_only=True
    )

    def __check_init__(self):
        if not self.terms:
            raise InputError("the polynomial has no terms; give at least one pair of a coefficient and powers.")
        for coefficient, powers in self.terms:
            finite("a coefficient of the polynomial", coefficient)
            if len(powers) > self.dim:
                raise InputError(
                    f"a term of the polynomial has {len(powers)} powers and the dimension is {self.dim}; give one for "
                    "each coordinate at most."
                )
            for power in powers:
                count("a power of the polynomial", power, at_least=0)

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
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

    @property
    def rotation_invariant(self) -> bool:
        return True
