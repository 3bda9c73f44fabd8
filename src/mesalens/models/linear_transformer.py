"""`LinearTransformer`: layers of linear self-attention, without softmax, norm or MLP."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import InputError, count, positive
from mesalens.learners.base import IterativeLearner
from mesalens.models.initial_weights import truncated_normal
from mesalens.models.small_matrices import gram, times_symmetric, times_weights
from mesalens.models.tokens import Joint
from mesalens.prompt import Prompt

FEW_LAYERS = 13
"""Up to so many layers are written out, which runs faster (twelve on a CPU 1.6 times); more are a loop, which compiles sooner."""


class LinearTransformer(IterativeLearner):
    """L layers of linear self-attention with H heads on the tokens `e_i = (x_i, y_i)` of width D = d + m.

    Keys and values come from the context only. With `A_h = W_K,h^T W_Q,h`, `B_h = P_h W_V,h` and `S = Σ_i e_i e_i^T`, a layer
    changes every token, the query's included, by

        e_j  <-  e_j + Σ_h P_h Σ_i (W_V,h e_i) (W_K,h e_i · W_Q,h e_j)  =  e_j + Σ_h B_h S A_h e_j ,

    and the prediction is minus the y-part of the query token after the last layer. The weights are those of the paper: the
    factors are what is trained. A looped transformer keeps one layer's weights and applies it `layers` times.

    `initial_weights` is W_0 of the query token, zero where it is not given; training leaves it as it is. After every layer the entries
    of all tokens are cut to ±`activation_clip` where it is given.

    Source: von Oswald et al. (2023), Section 2 and Proposition 1.
    """

    W_Q: Float[Array, "stored H K D"]
    W_K: Float[Array, "stored H K D"]
    W_V: Float[Array, "stored H K D"]
    P: Float[Array, "stored H D K"]
    layers: int = eqx.field(static=True, kw_only=True)
    outputs: int = eqx.field(static=True, default=1, kw_only=True)
    initial_weights: Float[Array, "m d"] | None = eqx.field(default=None, kw_only=True)
    activation_clip: float | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self):
        count("layers", self.layers)
        if self.activation_clip is not None:
            positive("the activation clip", self.activation_clip)
        if self.W_Q.shape[0] not in (1, self.layers):
            raise InputError(
                f"there are weights for {self.W_Q.shape[0]} layers in a transformer of {self.layers}; "
                "give those of every layer, or of one that is looped."
            )

    @classmethod
    def initialise(
        cls,
        dim: int,
        outputs: int = 1,
        *,
        layers: int = 1,
        heads: int = 1,
        looped: bool = False,
        key_size: int | None = None,
        init_scale: float | Float[Array, ""] = 0.002,
        initial_weights: Float[Array, "m d"] | None = None,
        activation_clip: float | None = None,
        key: Key[Array, ""],
    ) -> "LinearTransformer":
        """Weights as before training: truncated normals of variance `init_scale / (layers · fan-in)`.

        `key_size` is K, the width D where it is not given. Raises `ValueError` where a size is below 1 or the scale not above 0.

        Source of the initial variance: the released code of von Oswald et al. (2023).
        """
        for name, value in (("dim", dim), ("outputs", outputs), ("layers", layers), ("heads", heads)):
            count(name, value)
        width = dim + outputs
        key_size = width if key_size is None else count("key_size", key_size)
        variance = positive("init_scale", init_scale) / layers
        stored = 1 if looped else layers

        keys = jax.random.split(key, 4)
        reading = (stored, heads, key_size, width)
        return cls(
            W_Q=truncated_normal(keys[0], reading, width, variance),
            W_K=truncated_normal(keys[1], reading, width, variance),
            W_V=truncated_normal(keys[2], reading, width, variance),
            P=truncated_normal(keys[3], (stored, heads, width, key_size), heads * key_size, variance),
            layers=layers,
            outputs=outputs,
            initial_weights=initial_weights,
            activation_clip=activation_clip,
        )

    @classmethod
    def from_effective(
        cls,
        A: Float[Array, "stored H D D"],
        B: Float[Array, "stored H D D"],
        *,
        layers: int,
        outputs: int = 1,
        initial_weights: Float[Array, "m d"] | None = None,
    ) -> "LinearTransformer":
        """A transformer with the given effective matrices: `W_Q = A`, `P = B`, and `W_K`, `W_V` the identity."""
        eye = jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape)
        return cls(W_Q=A, W_K=eye, W_V=eye, P=B, layers=layers, outputs=outputs, initial_weights=initial_weights)

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.W_Q.shape[-1] - self.outputs

    @property
    def looped(self) -> bool:
        """Whether one layer's weights serve all layers."""
        return self.W_Q.shape[0] == 1 and self.layers > 1

    def effective(self) -> tuple[Float[Array, "stored H D D"], Float[Array, "stored H D D"]]:
        """`A = W_K^T W_Q` and `B = P W_V`, for each stored layer and head."""
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V

    def trainable(self) -> PyTree[bool]:
        """The four factors; not W_0."""
        every = super().trainable()
        return every if self.initial_weights is None else eqx.tree_at(lambda t: t.initial_weights, every, False)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        """The prediction, in O(n D) for one layer and O(n D² + L D³) for more (O(L n D²) where activations are clipped).

        The context enters only through S. A layer multiplies every token by `T = I + Σ_h B_h S A_h`, hence `S <- T S T^T`: only
        the query token and S are carried from layer to layer, and one layer does not even need S.
        """
        if self.activation_clip is not None:
            return self.iterates(prompt)[-1]
        context, token = self._tokens(prompt)
        A, B = self.effective()
        if self.layers == 1:
            return -(token + _attend(context, A[0], B[0], token))[prompt.dim :]

        S = context.T @ context
        for layer in range(self.layers):
            a, b = (A[0], B[0]) if self.looped else (A[layer], B[layer])
            update = jnp.einsum("hij,jk,hkl->il", b, S, a)
            token = token + update @ token
            if layer + 1 < self.layers:
                S = S + update @ S
                S = S + S @ update.T
        return -token[prompt.dim :]

    def batch(self, prompts: Prompt) -> Float[Array, "batch m"]:
        """The predictions for a batch, several times faster than by `jax.vmap` where there is more than one layer.

        Rows F of tokens become `F T^T = F + Σ_h F A_h^T S B_h^T`, three products of small matrices. Where the context has no more than
        twice the rows of S (or activations are clipped, which S does not know of) the rows are the tokens, and `S = F^T F` anew in each
        layer; else they are those of S itself, and twice that is `T S T^T`.
        """
        if self.layers == 1 and self.activation_clip is None:
            return jax.vmap(self)(prompts)
        context, query = jax.vmap(self._tokens)(prompts)
        A, B = self.effective()
        examples = context.shape[1]
        of_tokens = self.activation_clip is not None or examples <= 2 * context.shape[2]

        def tokens_after(tokens, weights):
            return self._clip(_rows_after(tokens, gram(tokens, examples), *weights)), None

        def sum_after(carry, weights):
            S, query = carry
            rows = _rows_after(jnp.concatenate([S, query[:, None]], axis=1), S, *weights)
            return (_rows_after(jnp.swapaxes(rows[:, :-1], 1, 2), S, *weights), rows[:, -1]), None

        each = [(A[0], B[0]) if self.looped else (A[number], B[number]) for number in range(self.layers)]
        if of_tokens:
            tokens = _through(tokens_after, jnp.concatenate([context, query[:, None]], axis=1), each[:-1])
            query = tokens[:, -1] + jax.vmap(_attend, (0, None, None, 0))(tokens[:, :-1], *each[-1], tokens[:, -1])
        else:
            S, query = _through(sum_after, (gram(context, examples), query), each[:-1])
            query = query + jax.vmap(_attend_by_sum, (0, None, None, 0))(S, *each[-1], query)
        return -self._clip(query)[:, prompts.dim :]

    def iterates(self, prompt: Prompt) -> Float[Array, "layers_and_input m"]:
        """What would be predicted from the query token before the first and after every layer."""
        return -self.residual_stream(prompt)[:, -1, prompt.dim :]

    def repeated(self, times: int, *, damping: float = 1.0) -> "LinearTransformer":
        """A looped transformer (or one layer) applied `times` times, each time `e <- e + λ Σ_h B_h S A_h e` with the damping λ.

        Raises `ValueError` for layers with weights of their own, less than one time, or a damping not above 0.
        """
        count("times", times)
        positive("the damping", damping)
        if self.W_Q.shape[0] != 1:
            raise InputError(
                f"the transformer has {self.layers} layers with weights of their own, and no order in which to repeat them; give a looped one."
            )
        return dataclasses.replace(self, P=damping * self.P, layers=times)

    def token_by_token(self, prompt: Prompt) -> Float[Array, " m"]:
        """The same prediction, from the residual stream of all tokens: the reference for `__call__`, in O(L n² D)."""
        return -self.residual_stream(prompt)[-1, -1, prompt.dim :]

    def residual_stream(self, prompt: Prompt) -> Float[Array, "layers_and_input context_and_query D"]:
        """All tokens before the first and after every layer, the query's last: attention as it is written in textbooks."""
        context, token = self._tokens(prompt)
        tokens = jnp.concatenate([context, token[None]])
        stream = [tokens]
        for layer in range(self.layers):
            stored = 0 if self.looped else layer
            queries = jnp.einsum("hkd,jd->hjk", self.W_Q[stored], tokens)
            keys = jnp.einsum("hkd,id->hik", self.W_K[stored], tokens[:-1])
            values = jnp.einsum("hkd,id->hik", self.W_V[stored], tokens[:-1])
            attention = jnp.einsum("hjk,hik->hji", queries, keys)
            tokens = self._clip(tokens + jnp.einsum("hdk,hji,hik->jd", self.P[stored], attention, values))
            stream.append(tokens)
        return jnp.stack(stream)

    def _clip(self, tokens: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        limit = self.activation_clip
        return tokens if limit is None else jnp.clip(tokens, -limit, limit)

    def _tokens(self, prompt: Prompt) -> tuple[Float[Array, "n D"], Float[Array, " D"]]:
        if (prompt.dim, prompt.outputs) != (self.dim, self.outputs):
            raise InputError(
                f"the transformer reads d = {self.dim} and m = {self.outputs}, and the prompt has d = {prompt.dim} and "
                f"m = {prompt.outputs}; give both the same."
            )
        tokens = Joint(self.initial_weights)
        return tokens.context(prompt), tokens.query(prompt)


def _attend(context, A, B, token):
    """Σ_h B_h S A_h e_q by two products with the context, without forming S."""
    mixed = jnp.einsum("ni,hn->hi", context, jnp.einsum("ni,hi->hn", context, A @ token))
    return jnp.einsum("hij,hj->i", B, mixed)


def _attend_by_sum(S, A, B, token):
    """Σ_h B_h S A_h e_q from S."""
    return jnp.einsum("hij,hj->i", B, (A @ token) @ S)


def _rows_after(rows, S, A, B):
    """F T^T = F + Σ_h F A_h^T S B_h^T for a batch of rows F: what a layer makes of them."""
    return rows + sum(
        times_weights(times_symmetric(times_weights(rows, a.T), S), b.T) for a, b in zip(A, B, strict=True)
    )


def _through(layer, carry, weights):
    """What layers make of the carry: one after the other, or in a loop where they are many."""
    if len(weights) >= FEW_LAYERS:
        return jax.lax.scan(layer, carry, jax.tree.map(lambda *of_layers: jnp.stack(of_layers), *weights))[0]
    for of_layer in weights:
        carry, _ = layer(carry, of_layer)
    return carry
