"""`Attention`: one layer of self-attention, with heads."""

from collections.abc import Iterable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count
from mesalens.models.attention.base import AttentionKind, Scores, Seen
from mesalens.models.attention.linear import LinearAttention
from mesalens.models.initial_weights import Scale, draw_factors
from mesalens.models.small_matrices import total

Parts = list[Float[Array, "rows K"]]
"""Queries, keys or values, by head."""


class Attention(eqx.Module):
    r"""One layer of self-attention: what H heads add to each row h_j from the rows h_i it sees.

    $$q_{hj} = W_{Q,h} h_j + b_{Q,h}, \qquad k_{hi} = W_{K,h} h_i + b_{K,h}, \qquad
    v_{hi} = W_{V,h} h_i + b_{V,h}$$

    $$\text{out}_j = \sum_h P_h \sum_i a_{hji} v_{hi} + b_P$$

    with the weights a_hji of `kind`. For speed, `A = W_K^T W_Q` and `B = P W_V` are multiplied once
    for all prompts, and the sum over i comes before B. Values are computed only if K < D / 2, and
    queries and keys also for kinds whose scores are not inner products.

    Attributes:
        W_Q: Queries, of shape (H, K, D). K is the key size.
        W_K: Keys, of shape (H, K, D).
        W_V: Values, of shape (H, K, D).
        P: Output projection, of shape (H, D, K).
        b_Q: Biases of queries, of shape (H, K), or None.
        b_K: Biases of keys, of shape (H, K), or None.
        b_V: Biases of values, of shape (H, K), or None.
        b_P: Bias of the output, of shape (D,), or None.
        kind: The [kind of attention][mesalens.models.AttentionKind], linear by default.

    Raises:
        ValueError: If only one of b_Q and b_K is given, or the shapes do not match.
    """

    W_Q: Float[Array, "H K D"]
    W_K: Float[Array, "H K D"]
    W_V: Float[Array, "H K D"]
    P: Float[Array, "H D K"]
    b_Q: Float[Array, "H K"] | None = None
    b_K: Float[Array, "H K"] | None = None
    b_V: Float[Array, "H K"] | None = None
    b_P: Float[Array, " D"] | None = None
    kind: AttentionKind = eqx.field(default_factory=LinearAttention, kw_only=True)

    def __check_init__(self):
        if (self.b_Q is None) != (self.b_K is None):
            raise InputError("b_Q and b_K must be given together or not at all.")
        if self.W_Q.ndim != 3:
            raise InputError(f"W_Q must have shape (H, K, D); got {self.W_Q.shape}.")
        heads, key_size, width = self.W_Q.shape
        shapes = dict.fromkeys(("W_K", "W_V"), self.W_Q.shape) | {"P": (heads, width, key_size)}
        shapes |= dict.fromkeys(("b_Q", "b_K", "b_V"), (heads, key_size)) | {"b_P": (width,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise InputError(f"{name} must have shape {shape} to match W_Q; got {array.shape}.")

    @classmethod
    def initialise(
        cls,
        width: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        kind: AttentionKind | None = None,
        biases: bool = False,
        scale: Scale,
        key: Key[Array, ""],
    ) -> "Attention":
        """Attention before training: truncated normals of variance `scale / fan-in`, biases 0.

        Args:
            width: D, the number of entries of a row.
            heads: Number of heads H.
            key_size: K. By default D.
            kind: The kind of attention. By default `LinearAttention`.
            biases: Whether there are biases.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
        count("width", width)
        count("heads", heads)
        weights = draw_factors(key, (heads,), width, key_size, scale)
        zeros = jnp.zeros(weights[0].shape[:2])
        zero_biases = (zeros, zeros, zeros, jnp.zeros(width)) if biases else ()
        return cls(*weights, *zero_biases, kind=kind or LinearAttention())

    def weights(
        self, queries: Float[Array, "q D"], context: Float[Array, "k D"], seen: Seen | None = None
    ) -> Float[Array, "H q k"]:
        """The attention weights a_hji, of shape (H, q, k).

        Args:
            queries: The rows that attend, of shape (q, D).
            context: The rows that they attend to, of shape (k, D).
            seen: Which rows are seen, of shape (q, k). By default all.
        """
        return jnp.stack(list(self._weights(queries, context, seen)))

    def __call__(
        self, queries: Float[Array, "q D"], context: Float[Array, "k D"], seen: Seen | None = None
    ) -> Float[Array, "q D"]:
        """What is added to the query rows, of shape (q, D).

        Args:
            queries: The rows that attend, of shape (q, D).
            context: The rows that they attend to, of shape (k, D).
            seen: Which rows are seen, of shape (q, k). By default all.
        """
        if self._narrow:
            q, k, v = self._projected(queries, context, "QKV")
            weights = self._weights_of(map(self.kind.scores, q, k), seen)
            read = jnp.concatenate([a @ each for a, each in zip(weights, v, strict=True)], axis=1)
            added = read @ jnp.swapaxes(self.P, 1, 2).reshape(-1, self.P.shape[1])
        else:
            weights, (_, B) = self._weights(queries, context, seen), self.effective()
            each = enumerate(zip(weights, B, strict=True))
            added = total(self._added(a, context, head, b) for head, (a, b) in each)
        return added if self.b_P is None else added + self.b_P

    @property
    def _narrow(self) -> bool:
        """Whether queries, keys and values, 4 K D products a row and head, cost less than 2 D²."""
        return 2 * self.W_Q.shape[1] < self.W_Q.shape[2]

    def _weights(self, queries, context, seen) -> Iterator[Scores]:
        """The weights of each head."""
        if self._narrow or type(self.kind).scores is not AttentionKind.scores:
            q, k = self._projected(queries, context, "QK")
            return self._weights_of(map(self.kind.scores, q, k), seen)
        scores = (self._scores(queries, context, *each) for each in enumerate(self.effective()[0]))
        return self._weights_of(scores, seen)

    def _weights_of(self, scores: Iterable[Scores], seen: Seen | None) -> Iterator[Scores]:
        return (self.kind.weights(each, seen, self.W_Q.shape[1]) for each in scores)

    def _projected(self, queries, context, names: str) -> list[Parts]:
        """Queries, keys and perhaps values, by one product where the rows are the same."""
        if queries is context:
            parts = self._product(context, names)
        else:
            parts = self._product(queries, names[0]) + self._product(context, names[1:])
        heads = len(self.W_Q)
        return [parts[first : first + heads] for first in range(0, len(parts), heads)]

    def _product(self, rows: Float[Array, "rows D"], names: str) -> Parts:
        """Queries, keys or values, apart: XLA's products with an axis of heads take longer."""
        W = jnp.concatenate([getattr(self, f"W_{name}") for name in names])
        parts = jnp.split(rows @ W.reshape(-1, W.shape[-1]).T, len(W), axis=1)
        biases = [b for name in names for b in self._biases(name)]
        return [part if b is None else part + b for part, b in zip(parts, biases, strict=True)]

    def _biases(self, name: str) -> Iterable[Float[Array, " K"] | None]:
        b = getattr(self, f"b_{name}")
        return [None] * len(self.W_Q) if b is None else b

    def _added(self, weights: Scores, context, head: int, B) -> Float[Array, "q D"]:
        """What a head adds without b_P, by B."""
        added = weights @ context @ B.T
        if self.b_V is not None:
            added += weights.sum(-1, keepdims=True) * (self.P[head] @ self.b_V[head])
        return added

    def _scores(self, queries, context, head: int, A: Float[Array, "D D"]) -> Scores:
        """`q_j · k_i` by A."""
        left = queries @ A.T
        if self.b_Q is None:
            return left @ context.T
        parts = (self.W_Q, self.W_K, self.b_Q, self.b_K)
        W_Q, W_K, b_Q, b_K = jax.tree.map(lambda part: part[head], parts)
        offset = (queries @ W_Q.T + b_Q) @ b_K
        return (left + b_Q @ W_K) @ context.T + offset[:, None]

    def effective(self) -> tuple[Float[Array, "H D D"], Float[Array, "H D D"]]:
        """`A = W_K^T W_Q` and `B = P W_V` of each head, without biases, each of shape (H, D, D)."""
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V
