"""Products of many small matrices at full speed, where deep linear transformers spend their time.

XLA's CPU backend computes a batched product of 11 × 11 matrices at a tenth of the speed of a CPU. A
sum of outer products that is written out,

    (F G)[b] = Σ_k F[b, :, k] G[b, k, :] ,

compiles to one loop over the batch without calls. It needs two precautions: derivatives are given
here, because those that JAX finds are sums of padded slices; and the result is fenced off, because
XLA would compute it again for each of its D uses in the next such sum.

All arrays have a leading axis of examples. Matrices called S are symmetric, and so are gradients
with respect to them.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Rows = Float[Array, "batch r D"]
Symmetric = Float[Array, "batch D D"]

LARGEST = 24
"""Sums of more terms are left to XLA's own product, which is good at large ones."""


def written_out(terms: int) -> bool:
    """Whether a sum of this many outer products is written out: small sums on a CPU are."""
    return terms <= LARGEST and jax.default_backend() == "cpu"


def fenced(value: Array) -> Array:
    """The value itself, computed once: XLA does not repeat divisions, nor know this one is by 1."""
    return value / (1 + 0 * value)


def total(terms: Iterable[Array]) -> Array:
    """The sum of the terms, without the 0 that `sum` begins with."""
    return functools.reduce(operator.add, terms)


def product(
    rows: Float[Array, "batch r k"], matrices: Float[Array, "batch k c"] | Float[Array, "k c"]
) -> Float[Array, "batch r c"]:
    """F G, with a G for each example or one for all."""
    if not written_out(rows.shape[-1]):
        return rows @ matrices
    terms = (rows[:, :, k, None] * matrices[..., None, k, :] for k in range(rows.shape[-1]))
    return fenced(total(terms))


def squared(rows: Rows, others: Rows) -> Symmetric:
    """The symmetric part of F^T G."""
    if not written_out(rows.shape[1]):
        mixed = jnp.einsum("bri,brj->bij", rows, others)
        return (mixed + jnp.swapaxes(mixed, 1, 2)) / 2
    pairs = [(rows[:, r, :], others[:, r, :]) for r in range(rows.shape[1])]
    if rows is others:
        return fenced(total(f[:, :, None] * f[:, None, :] for f, _ in pairs))
    terms = (f[:, :, None] * g[:, None, :] + g[:, :, None] * f[:, None, :] for f, g in pairs)
    return fenced(total(terms) / 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gram(rows: Rows, first: int) -> Symmetric:
    """S = Σ_i f_i f_i^T over the first rows, whose gradient is 2 F G for the gradient G of S."""
    examples = rows[:, :first]
    return squared(examples, examples)


def _gram_backward(first, rows, gradient):
    # A factor for every row: padding a product of fewer rows takes longer than computing them all
    factor = (2.0 * (np.arange(rows.shape[1]) < first)[:, None]).astype(rows.dtype)
    return (product(rows, gradient) * factor,)


gram.defvjp(lambda rows, first: (gram(rows, first), rows), _gram_backward)


@jax.custom_vjp
def times_symmetric(rows: Rows, S: Symmetric) -> Rows:
    """F S."""
    return product(rows, S)


def _times_symmetric_backward(saved, gradient):
    rows, S = saved
    return product(gradient, S), squared(rows, gradient)


times_symmetric.defvjp(lambda *saved: (times_symmetric(*saved), saved), _times_symmetric_backward)


@jax.custom_vjp
def times_weights(rows: Rows, weights: Float[Array, "D C"]) -> Float[Array, "batch r C"]:
    """F W, the weights W shared by all examples."""
    return product(rows, weights)


def _times_weights_backward(saved, gradient):
    rows, weights = saved
    # One large product over examples and rows at once: that XLA does well
    of_weights = rows.reshape(-1, rows.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return product(gradient, weights.T), of_weights


times_weights.defvjp(lambda *saved: (times_weights(*saved), saved), _times_weights_backward)
