"""Calls as one compiled program each: eagerly, JAX compiles every operation by itself."""

import equinox as eqx
import jax


@eqx.filter_jit
def compiled(function, *arguments, **named):
    """`function(*arguments, **named)`; learners and tasks may be functions, or their methods."""
    return function(*arguments, **named)


@eqx.filter_jit
def mapped(function, prompts):
    """`jax.vmap(function)(prompts)`."""
    return jax.vmap(function)(prompts)
