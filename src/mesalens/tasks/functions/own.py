"""Functions that a user writes."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError
from mesalens.tasks.functions.base import Functions


class OwnFunctions(Functions):
    """f(x) = scale function(key, x), where the key draws f and x is one input, of shape (d,).

    The function is pure, can be traced by JAX, and returns m floating-point numbers, of shape (m,), or one as a scalar where
    m = 1. The same key gives the same f: all inputs of a prompt come with one key, and each prompt has its own. The symmetries
    are those that the user states.

    Raises `ValueError` where the function cannot be traced, or returns something else.
    """

    function: Callable[..., Array | float] = eqx.field(kw_only=True)
    stated_sign_symmetric: bool = eqx.field(static=True, kw_only=True)
    stated_rotation_invariant: bool = eqx.field(static=True, kw_only=True)

    def __init__(
        self,
        dim: int,
        function: Callable[..., Array | float],
        outputs: int = 1,
        *,
        scale: float = 1.0,
        sign_symmetric: bool = False,
        rotation_invariant: bool = False,
    ):
        self.dim, self.outputs, self.scale = dim, outputs, scale
        self.function = function
        self.stated_sign_symmetric, self.stated_rotation_invariant = sign_symmetric, rotation_invariant

    def __check_init__(self):
        super().__check_init__()  # the sizes first: the function is traced with them
        x = jax.ShapeDtypeStruct((self.dim,), jnp.float32)
        try:
            y = jax.eval_shape(self.function, jax.random.key(0), x)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
            raise InputError(
                f"the function raised {reason}, when traced with a key and an input of shape ({self.dim},); mend it."
            ) from error
        allowed = ((1,), ()) if self.outputs == 1 else ((self.outputs,),)
        if not isinstance(y, jax.ShapeDtypeStruct):
            raise InputError(f"the function returns a {type(y).__name__}; return an array, or a number where m is 1.")
        if y.shape not in allowed:
            raise InputError(
                f"the function returns shape {y.shape} for one input; return {' or '.join(map(str, allowed))}, "
                "or give another number of outputs."
            )
        if not jnp.issubdtype(y.dtype, jnp.floating):
            raise InputError(f"the function returns numbers of type {y.dtype}; return floating-point numbers.")

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        prompts = xs.reshape(-1, *xs.shape[-2:])
        keys = jax.random.split(key, len(prompts))
        labels = jax.vmap(jax.vmap(self.function, in_axes=(None, 0)))(keys, prompts)
        return self.scale * jnp.asarray(labels, jnp.float32).reshape(*xs.shape[:-1], self.outputs)

    @property
    def sign_symmetric(self) -> bool:
        return self.stated_sign_symmetric

    @property
    def rotation_invariant(self) -> bool:
        return self.stated_rotation_invariant
