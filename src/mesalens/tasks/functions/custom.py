"""Functions that a user writes."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens.checks import InputError
from mesalens.tasks._own_parts import in_words
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


class CustomFunctions(Functions):
    """A prior given by your own function: f(x) = scale function(key, x), where the key draws f.

    The function must be pure and traceable by JAX. It gets one input x of shape (d,) and returns m
    floating-point numbers, of shape (m,), or a scalar if m = 1. The same key must give the same f:
    all inputs of a prompt come with the same key, and each prompt has its own. The symmetries are
    not checked.

    Args:
        dim: d, the number of entries of an input.
        function: A function of a key and an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        sign_symmetric: Whether f and -f are equally likely.
        rotation_invariant: Whether f and f∘R are equally likely for every orthogonal R.

    Raises:
        ValueError: If the function cannot be traced, or returns something else.

    Examples:
        Lines with a random slope and intercept:

        >>> import jax
        >>> from mesalens import random, tasks
        >>> def line(key, x):
        ...     slope, intercept = jax.random.normal(key, (2,))
        ...     return slope * x[0] + intercept
        >>> functions = tasks.CustomFunctions(1, line, sign_symmetric=True)
        >>> task = tasks.RegressionTask(tasks.Uniform(1), functions, context_length=5)
        >>> prompt, target = task.sample(random.key(0))
        >>> prompt.ys.shape
        (5, 1)
    """

    function: Callable[..., jax.Array | float] = eqx.field(kw_only=True)
    sign_symmetric: bool = eqx.field(static=True, kw_only=True)
    rotation_invariant: bool = eqx.field(static=True, kw_only=True)

    def __init__(
        self,
        dim: int,
        function: Callable[..., jax.Array | float],
        outputs: int = 1,
        *,
        scale: float = 1.0,
        sign_symmetric: bool = False,
        rotation_invariant: bool = False,
    ):
        self.dim, self.function, self.outputs, self.scale = dim, function, outputs, scale
        self.sign_symmetric, self.rotation_invariant = sign_symmetric, rotation_invariant

    def __check_init__(self):
        super().__check_init__()  # the sizes first, as the function is traced with them
        x = jax.ShapeDtypeStruct((self.dim,), jnp.float32)
        try:
            y = jax.eval_shape(self.function, jax.random.key(0), x)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
            raise InputError(
                f"function must be traceable with a key and x of shape ({self.dim},); "
                f"it raised {reason}."
            ) from error
        allowed = ((1,), ()) if self.outputs == 1 else ((self.outputs,),)
        if getattr(y, "shape", None) not in allowed or not jnp.issubdtype(y.dtype, jnp.floating):
            raise InputError(
                "function must return floating-point numbers of shape "
                f"{' or '.join(map(str, allowed))}; it returned {in_words(y)}."
            )

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        prompts = xs.reshape(-1, *xs.shape[-2:])
        keys = jax.random.split(key, len(prompts))
        labels = jax.vmap(jax.vmap(self.function, in_axes=(None, 0)))(keys, prompts)
        return self.scale * jnp.asarray(labels, jnp.float32).reshape(*xs.shape[:-1], self.outputs)
