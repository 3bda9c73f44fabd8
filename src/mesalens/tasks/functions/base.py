"""`Functions`: what maps the inputs of a task to its labels."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.checks import count, positive


class Functions(eqx.Module):
    """A family of functions f: R^d -> R^m with a prior; a prompt is labelled by one draw of f.

    `scale` multiplies every draw, so that a task with functions scaled by α is the same task with `scale * α`.
    """

    dim: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True, default=1)
    scale: float = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        count("dim", self.dim)
        count("outputs", self.outputs)
        positive("the scale of the functions", self.scale)

    @abc.abstractmethod
    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        """Draws one f for each prompt and returns its values at the n inputs of that prompt, float32."""

    @property
    def sign_symmetric(self) -> bool:
        """Whether f and -f are equally likely. False promises nothing."""
        return False

    @property
    def rotation_invariant(self) -> bool:
        """Whether f and f∘R are equally likely for every orthogonal R. False promises nothing."""
        return False
