"""`LinearWeights`: the free parameters of linear self-attention."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale

Matrices = Float[Array, "stored H D D"]
Effective = tuple[Matrices, Matrices]


class Sizes(NamedTuple):
    """The sizes of a linear transformer's weights.

    Attributes:
        stored: The number of layers with their own weights.
        heads: Number of heads H.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
    """

    stored: int
    heads: int
    dim: int
    outputs: int


class LinearWeights(eqx.Module):
    """The free parameters θ of linear self-attention, with effective matrices A(θ) and B(θ).

    A layer of linear self-attention is `e_j <- e_j + Σ_h B_h S A_h e_j`. Theory, population
    training and the fast paths read the weights only through `effective`, so that they work for
    every structure. A structure may also have W_0 among its parameters. The first two axes of
    arrays are stored layers and heads.
    """

    one_layer: ClassVar[bool] = False
    """Whether a layer is not `e + B S A e` for every token. The prediction is then still exact, but
    there cannot be a second layer."""

    @classmethod
    @abc.abstractmethod
    def initialise(cls, sizes: Sizes, *, scale: Scale, key: Key[Array, ""]) -> "LinearWeights":
        """Parameters before training, of variance `scale` divided by their fan-in.

        Args:
            sizes: Stored layers, heads, d and m.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """

    @abc.abstractmethod
    def effective(self) -> Effective:
        """A and B, each of shape (stored layers, H, D, D), differentiable in the parameters."""

    def start(self) -> Float[Array, "m d"] | None:
        """W_0 of the query token, of shape (m, d), if it is a parameter; by default None."""
        return None
