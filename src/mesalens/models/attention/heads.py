"""`Attention`: one layer of self-attention, with heads."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count
from mesalens.models.attention.base import AttentionKind, Scores, Seen
from mesalens.models.attention.linear import LinearAttention
from mesalens.models.initial_weights import Scale, draw_factors
from mesalens.models.small_matrices import total


class Attention(eqx.Module):
    r"""One layer of self-attention: what H heads add to each row h_j from the rows h_i it sees.

    $$q_{hj} = W_{Q,h} h_j + b_{Q,h}, \qquad k_{hi} = W_{K,h} h_i + b_{K,h}, \qquad
    v_{hi} = W_{V,h} h_i + b_{V,h}$$

    $$\text{out}_j = \sum_h P_h \sum_i a_{hji} v_{hi} + b_P$$

    with the weights a_hji of `kind`. For speed, `A = W_K^T W_Q` and `B = P W_V` are multiplied once
    for all prompts, and the sum over i comes before B. Values are never computed, and queries and
    keys only for kinds whose scores are not inner products.

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
        return jnp.stack([weights for weights, _ in self._heads(queries, context, seen)])

    def __call__(
        self, queries: Float[Array, "q D"], context: Float[Array, "k D"], seen: Seen | None = None
    ) -> Float[Array, "q D"]:
        """What is added to the query rows, of shape (q, D).

        Args:
            queries: The rows that attend, of shape (q, D).
            context: The rows that they attend to, of shape (k, D).
            seen: Which rows are seen, of shape (q, k). By default all.
        """
        added = total(added for _, added in self._heads(queries, context, seen))
        return added if self.b_P is None else added + self.b_P

    def _heads(self, queries, context, seen) -> Iterator[tuple[Scores, Float[Array, "q D"]]]:
        """The weights of each head, and what it adds without b_P.

        Heads are written out: XLA's products with an axis of heads take longer.
        """
        heads, key_size, width = self.W_Q.shape
        # Queries, keys and values take 4 K D products a row and head, A and B 2 D²
        narrow = 2 * key_size < width
        explicit = narrow or type(self.kind).scores is not AttentionKind.scores
        A, B = ((), ()) if narrow else self.effective()
        q, k, v = (
            self._projected(rows, name) if needed else None
            for rows, name, needed in (
                (queries, "Q", explicit),
                (context, "K", explicit),
                (context, "V", narrow),
            )
        )
        for head in range(heads):
            if q is not None and k is not None:
                scores = self.kind.scores(q[:, head], k[:, head])
            else:
                scores = self._scores(queries, context, head, A[head])
            weights = self.kind.weights(scores, seen, key_size)
            if v is not None:
                yield weights, weights @ v[:, head] @ self.P[head].T
                continue
            added = weights @ context @ B[head].T
            if self.b_V is not None:
                added += weights.sum(-1, keepdims=True) * (self.P[head] @ self.b_V[head])
            yield weights, added

    def _projected(self, rows, name: str) -> Float[Array, "rows H K"]:
        """Queries, keys or values of all heads, by one product."""
        W, b = getattr(self, f"W_{name}"), getattr(self, f"b_{name}")
        projected = (rows @ W.reshape(-1, W.shape[-1]).T).reshape(len(rows), *W.shape[:2])
        return projected if b is None else projected + b

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
