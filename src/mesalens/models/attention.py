"""`Attention`: one layer of linear or softmax self-attention, with heads."""

import functools
import operator
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mesalens.checks import InputError, count, one_of
from mesalens.models.initial_weights import truncated_normal

Kernel = Literal["linear", "softmax"]
Keys = Literal["context", "causal", "all"]


class Attention(eqx.Module):
    """What H heads add to each row h_j that asks, from the rows h_i that it sees:

        a_hji = (W_Q,h h_j + b_Q,h) · (W_K,h h_i + b_K,h)                        linear
        a_hji = softmax_i [(W_Q,h h_j + b_Q,h) · (W_K,h h_i + b_K,h) / √K]       softmax
        out_j = Σ_h P_h Σ_i a_hji (W_V,h h_i + b_V,h) + b_P

    K is the number of rows of W_Q, the key size. Keys and values are never formed: `A = W_K^T W_Q` and `B = P W_V` are multiplied once for
    all prompts, and the sum over i comes before B. Softmax weights sum to 1; linear ones need not, and are 0 where a row is not seen. The
    biases of queries and keys come together or not at all.

    Raises `ValueError` where one comes alone, or shapes do not fit each other.
    """

    W_Q: Float[Array, "H K D"]
    W_K: Float[Array, "H K D"]
    W_V: Float[Array, "H K D"]
    P: Float[Array, "H D K"]
    b_Q: Float[Array, "H K"] | None = None
    b_K: Float[Array, "H K"] | None = None
    b_V: Float[Array, "H K"] | None = None
    b_P: Float[Array, " D"] | None = None
    kernel: Kernel = eqx.field(static=True, default="linear", kw_only=True)

    def __check_init__(self):
        one_of("attention", self.kernel, ("linear", "softmax"))
        if (self.b_Q is None) != (self.b_K is None):
            raise InputError("there is a bias of queries or of keys without the other; give both or none.")
        if self.W_Q.ndim != 3:
            raise InputError(f"W_Q has shape {self.W_Q.shape}; give (H, K, D), for one head too.")
        heads, key_size, width = self.W_Q.shape
        fitting = {
            **dict.fromkeys(("W_K", "W_V"), self.W_Q.shape),
            "P": (heads, width, key_size),
            **dict.fromkeys(("b_Q", "b_K", "b_V"), (heads, key_size)),
            "b_P": (width,),
        }
        for name, shape in fitting.items():
            given = getattr(self, name)
            if given is not None and given.shape != shape:
                raise InputError(f"{name} has shape {given.shape} beside W_Q of shape {self.W_Q.shape}; give {shape}.")

    @classmethod
    def initialise(
        cls,
        width: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        kernel: Kernel = "linear",
        biases: bool = False,
        scale: float,
        key: Key[Array, ""],
    ) -> "Attention":
        """Weights as before training: `truncated_normal` with the given scale, biases 0; key size K = D where it is not given."""
        count("width", width)
        count("heads", heads)
        key_size = width if key_size is None else count("key_size", key_size)
        keys = jax.random.split(key, 4)
        shape = (heads, key_size, width)
        W_Q, W_K, W_V = (truncated_normal(k, shape, width, scale) for k in keys[:3])
        P = truncated_normal(keys[3], (heads, width, key_size), heads * key_size, scale)
        if not biases:
            return cls(W_Q, W_K, W_V, P, kernel=kernel)
        zeros = jnp.zeros((heads, key_size))
        return cls(W_Q, W_K, W_V, P, zeros, zeros, zeros, jnp.zeros(width), kernel=kernel)

    def weights(
        self, queries: Float[Array, "q D"], context: Float[Array, "k D"], seen: Bool[Array, "q k"] | None = None
    ) -> Float[Array, "H q k"]:
        """a_hji; `seen` says which rows of the context a query sees, all where it is not given."""
        return jnp.stack([weights for weights, _ in self._heads(queries, context, seen)])

    def __call__(
        self, queries: Float[Array, "q D"], context: Float[Array, "k D"], seen: Bool[Array, "q k"] | None = None
    ) -> Float[Array, "q D"]:
        """What is added to the rows that ask."""
        added = functools.reduce(operator.add, (added for _, added in self._heads(queries, context, seen)))
        return added if self.b_P is None else added + self.b_P

    def _heads(self, queries, context, seen):
        """The weights of each head, and what it adds without b_P; written out, as XLA's products with an axis of heads take longer."""
        A, B = self.effective()
        for head in range(len(A)):
            asked, offset = queries @ A[head].T, jnp.zeros(len(queries))
            if self.b_Q is not None and self.b_K is not None:
                asked = asked + self.b_Q[head] @ self.W_K[head]
                offset = (queries @ self.W_Q[head].T + self.b_Q[head]) @ self.b_K[head]
            logits = asked @ context.T
            if self.kernel == "softmax":  # the offset is the same for all i, and so without effect
                logits = logits / self.W_Q.shape[1] ** 0.5
                weights = jax.nn.softmax(logits if seen is None else jnp.where(seen, logits, -jnp.inf), axis=-1)
            else:
                logits = logits + offset[:, None]
                weights = logits if seen is None else jnp.where(seen, logits, 0)
            added = weights @ context @ B[head].T
            if self.b_V is not None:
                added = added + weights.sum(-1, keepdims=True) * (self.P[head] @ self.b_V[head])
            yield weights, added

    def effective(self) -> tuple[Float[Array, "H D D"], Float[Array, "H D D"]]:
        """`A = W_K^T W_Q` and `B = P W_V` of each head, biases left out."""
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V


def seen(keys: Keys, rows: int) -> Bool[Array, "rows rows"] | None:
    """Which rows each row sees: those up to itself where the keys are causal, else all (None)."""
    return jnp.tril(jnp.ones((rows, rows), bool)) if keys == "causal" else None
