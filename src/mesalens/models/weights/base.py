"""`LinearWeights`: the free parameters of linear self-attention."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale

Matrices = Float[Array, "stored H D D"]
Effective = tuple[Matrices, Matrices]


class Sizes(NamedTuple):
    """How many layers are stored, heads H, and the sizes d of covariates and m of labels."""

    stored: int
    heads: int
    dim: int
    outputs: int


class LinearWeights(eqx.Module):
    """Free parameters θ, with the map to the effective matrices `A(θ)` and `B(θ)` of every head.

    A layer of linear self-attention is `e_j <- e_j + Σ_h B_h S A_h e_j`: theory, population
    training and the fast path read weights through `effective` alone, so that they hold for any
    structure. A structure may have the start W_0 among its parameters. Arrays have a leading axis
    of stored layers, then one of heads.

    A structure that stands for more than attention, so that a layer is not `e + B S A e` for every
    token, says `one_layer`: its prediction is right, and there is no second layer.
    """

    one_layer: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def initialise(cls, sizes: Sizes, *, scale: Scale, key: Key[Array, ""]) -> "LinearWeights":
        """Parameters before training, of variance `scale` over their fan-in."""

    @abc.abstractmethod
    def effective(self) -> Effective:
        """A and B, differentiable in the parameters."""

    def start(self) -> Float[Array, "m d"] | None:
        """W_0 of the query token, if it is one of the parameters; None by default."""
        return None
