"""`Functions`: what maps the inputs of a task to its labels."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.checks import count, scale
from mesalens.tasks._own_parts import SHAPE, inputs, require_draws

KeyArray = Key[Array, ""]
Inputs = Float[Array, "*shape n d"]
"""n covariates of each prompt of a batch."""
Labels = Float[Array, "*shape n m"]
"""Their labels."""


class Functions(eqx.Module):
    """A prior of functions f: R^d -> R^m; each prompt is labelled by one draw of f.

    To write your own, define `__call__`, or use
    [`CustomFunctions`][mesalens.tasks.CustomFunctions].

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every value. A task with functions scaled by α is the same task with
            `scale * α`.

    Raises:
        ValueError: If `dim` or `outputs` is below 1, `scale` is not from 1e-8 to 1e8, or a call
            returns another shape.
    """

    dim: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True, default=1)
    scale: float = eqx.field(default=1.0, kw_only=True)

    sign_symmetric: ClassVar[bool] = False
    """Whether f and -f are equally likely. False makes no statement."""
    rotation_invariant: ClassVar[bool] = False
    """Whether f and f∘R are equally likely for every orthogonal R. False makes no statement."""

    def __check_init__(self):
        count("dim", self.dim)
        count("outputs", self.outputs)
        scale("scale", self.scale)
        call, labels = f"(key, xs), for xs of shape {(*SHAPE, self.dim)},", (*SHAPE, self.outputs)
        shapes = {"(*shape, n, outputs)": labels}
        require_draws(self, call, lambda key: self(key, inputs(self.dim)), shapes)

    @abc.abstractmethod
    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        """The values of one draw of f for each prompt, float32, of shape (*shape, n, m).

        Args:
            key: A random key; the same key gives the same functions.
            xs: The n inputs of each prompt of a batch, of shape (*shape, n, d).
        """
