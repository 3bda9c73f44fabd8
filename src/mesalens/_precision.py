"""`in_precision`: the floating-point type of a pytree's arrays."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def in_precision(tree: PyTree, dtype: Any) -> PyTree:
    """The same pytree with floating-point arrays of the given type."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )
