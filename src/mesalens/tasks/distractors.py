"""`Distractors`: context labels that are independent of the function."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mesalens.checks import count, is_zero, variance
from mesalens.tasks.functions.base import KeyArray, Labels


class Distractors(eqx.Module):
    """Context labels, at random places, that are replaced by independent draws of N(0, variance).

    Attributes:
        count: The number of labels that are replaced.
        variance: The variance of the replacements.

    Raises:
        ValueError: If `count` is not an integer of at least 0, or `variance` is out of range.
    """

    count: int | Int[Array, ""] = 0
    variance: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        if not isinstance(self.count, jax.Array):
            count("distractors", self.count, at_least=0)
        variance("variance", self.variance)

    def __call__(self, key: KeyArray, labels: Labels) -> Labels:
        """The labels of a context, `count` of the n replaced.

        Args:
            key: A random key.
            labels: The labels of a batch of contexts, of shape (*shape, n, m).
        """
        if is_zero(self.count):
            return labels
        place_key, label_key = jax.random.split(key)
        # The rank of each label in a random order: `count` may be traced, so it cannot be a shape
        order = jnp.argsort(jax.random.uniform(place_key, labels.shape[:-1]), axis=-1)
        replaced = jnp.argsort(order, axis=-1) < self.count
        noise = jnp.sqrt(self.variance) * jax.random.normal(label_key, labels.shape)
        return jnp.where(replaced[..., None], noise, labels)
