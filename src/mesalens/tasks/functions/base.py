"""`Functions`: what maps the inputs of a task to its labels."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Key


class Functions(eqx.Module):
    """A family of functions f: R^d -> R^m with a prior; a prompt is labelled by one draw of f."""

    dim: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True, default=1)

    @abc.abstractmethod
    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        """Draws one f for each prompt and returns its values at the n inputs of that prompt."""
