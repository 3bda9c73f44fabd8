"""Products of many small matrices, at the speed that a CPU has: what a batch of deep linear transformers spends its time on.

XLA's CPU backend computes a batched product of 11 × 11 matrices at a tenth of the machine's speed. A sum of outer products that is
written out,

    (F G)[b] = Σ_k F[b, :, k] G[b, k, :] ,

compiles to one loop over the batch without calls. It needs two precautions: its derivatives are given here, since those that JAX finds
are sums of padded slices; and its result is fenced off, since XLA would compute it anew for each of its D uses in the next such sum.

All arrays have a leading axis of examples. Matrices called S are symmetric, and so are the gradients with respect to them.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LARGEST = 24
"""Sums of more terms than this are left to XLA's own product, which is good at large ones."""


def written_out(terms: int) -> bool:
    """Whether a sum of so many outer products is to be written out: where it is small, on a CPU."""
    return terms <= LARGEST and jax.default_backend() == "cpu"


def fenced(value: Array) -> Array:
    """The value itself, which XLA computes once: it does not repeat divisions, and cannot know that this one is by 1."""
    return value / (1 + 0 * value)


def total(terms: Iterable[Array]) -> Array:
    """Their sum, without the 0 that `sum` begins with."""
    return functools.reduce(operator.add, terms)


def product(
    rows: Float[Array, "batch r k"], matrices: Float[Array, "batch k c"] | Float[Array, "k c"]
) -> Float[Array, "batch r c"]:
    """F G, each example with its own G or all with one."""
    if not written_out(rows.shape[-1]):
        return rows @ matrices
    return fenced(total(rows[:, :, k, None] * matrices[..., None, k, :] for k in range(rows.shape[-1])))


def squared(rows: Float[Array, "batch r D"], others: Float[Array, "batch r D"]) -> Float[Array, "batch D D"]:
    """The symmetric part of F^T G."""
    if not written_out(rows.shape[1]):
        mixed = jnp.einsum("bri,brj->bij", rows, others)
        return (mixed + jnp.swapaxes(mixed, 1, 2)) / 2
    pairs = [(rows[:, r, :], others[:, r, :]) for r in range(rows.shape[1])]
    if rows is others:
        return fenced(total(f[:, :, None] * f[:, None, :] for f, _ in pairs))
    return fenced(total(f[:, :, None] * g[:, None, :] + g[:, :, None] * f[:, None, :] for f, g in pairs) / 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gram(rows: Float[Array, "batch r D"], first: int) -> Float[Array, "batch D D"]:
    """S = Σ_i f_i f_i^T over the first rows; with respect to these its gradient is 2 F G for the symmetric gradient G of S."""
    examples = rows[:, :first]
    return squared(examples, examples)


def _gram_backward(first, rows, gradient):
    # A factor for every row, and not the product of fewer rows: to pad it would take longer than to compute it
    return (product(rows, gradient) * (2.0 * (np.arange(rows.shape[1]) < first)[:, None]).astype(rows.dtype),)


gram.defvjp(lambda rows, first: (gram(rows, first), rows), _gram_backward)


@jax.custom_vjp
def times_symmetric(rows: Float[Array, "batch r D"], S: Float[Array, "batch D D"]) -> Float[Array, "batch r D"]:
    """F S."""
    return product(rows, S)


def _times_symmetric_backward(saved, gradient):
    rows, S = saved
    return product(gradient, S), squared(rows, gradient)


times_symmetric.defvjp(lambda rows, S: (times_symmetric(rows, S), (rows, S)), _times_symmetric_backward)


@jax.custom_vjp
def times_weights(rows: Float[Array, "batch r D"], weights: Float[Array, "D C"]) -> Float[Array, "batch r C"]:
    """F W, the weights W shared by all examples."""
    return product(rows, weights)


def _times_weights_backward(saved, gradient):
    rows, weights = saved
    # One large product over examples and rows at once: that XLA does well
    of_weights = rows.reshape(-1, rows.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return product(gradient, weights.T), of_weights


times_weights.defvjp(lambda rows, weights: (times_weights(rows, weights), (rows, weights)), _times_weights_backward)
