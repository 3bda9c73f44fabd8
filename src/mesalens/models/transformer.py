"""`Transformer`: attention, norm, MLP, positions and tokens, each a free choice."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import InputError, count, one_of, positive
from mesalens.learners.base import IterativeLearner
from mesalens.models.attention import Attention, Kernel, Keys, seen
from mesalens.models.embedding import Combination, Embedding
from mesalens.models.initial_weights import with_truncated_normals
from mesalens.models.linear_transformer import LinearTransformer
from mesalens.models.positions import Positions
from mesalens.models.tokens import Joint, Tokens
from mesalens.prompt import Prompt


class TransformerLayer(eqx.Module):
    """`h <- h + Attention(norm(h))`, then `h <- h + MLP(norm(h))`; norms and MLP may be missing."""

    attention: Attention
    attention_norm: eqx.nn.LayerNorm | None = None
    mlp: eqx.nn.MLP | None = None
    mlp_norm: eqx.nn.LayerNorm | None = None

    def __call__(self, rows: Float[Array, "rows D"], keys: Keys, *, last: int | None = None) -> Float[Array, "asked D"]:
        """What the layer makes of all rows, or of the `last` so many alone, which costs less."""
        asked = slice(None) if last is None else slice(-last, None)
        queries, context, visible = self._reads(rows, keys, asked)
        after = rows[asked] + self.attention(queries, context, visible)
        if self.mlp is None:
            return after
        return after + jax.vmap(self.mlp)(_normed(self.mlp_norm, after))

    def attention_weights(self, rows: Float[Array, "rows D"], keys: Keys) -> Float[Array, "H rows seen"]:
        """How each row weights those that it may see."""
        return self.attention.weights(*self._reads(rows, keys, slice(None)))

    def _reads(self, rows, keys, asked):
        normed = _normed(self.attention_norm, rows)
        context = normed[:-1] if keys == "context" else normed
        visible = seen(keys, len(rows))
        return normed[asked], context, None if visible is None else visible[asked]


class Transformer(IterativeLearner):
    """L layers of attention and MLPs on the tokens of a prompt, from orthogonal parts.

    `tokens` lay the prompt out as rows, `embedding` does what comes before the first layer, each of `stored_layers` is attention (linear or
    softmax, H heads), with norms and an MLP or without; a looped transformer stores one and applies it `layers` times. `keys` says what a row
    sees: the context without the query (as in the paper), the rows up to itself, or all.

    The prediction is minus the y-part of the query's row after the last layer (see `Embedding`), or `readout` of that row. With linear
    attention on joint tokens and nothing else this is `LinearTransformer`, which is the faster form.

    Source: von Oswald et al. (2023), Sections 2 to 5; Vaswani et al. (2017); norms come first as in Xiong et al. (2020).
    """

    tokens: Tokens
    embedding: Embedding
    stored_layers: tuple[TransformerLayer, ...]
    readout: eqx.nn.Linear | None = None
    layers: int = eqx.field(static=True, kw_only=True)
    dim: int = eqx.field(static=True, kw_only=True)
    outputs: int = eqx.field(static=True, default=1, kw_only=True)
    keys: Keys = eqx.field(static=True, default="context", kw_only=True)

    def __check_init__(self):
        count("layers", self.layers)
        one_of("keys", self.keys, ("context", "causal", "all"))
        if len(self.stored_layers) not in (1, self.layers):
            raise InputError(
                f"there are weights for {len(self.stored_layers)} layers in a transformer of {self.layers}; "
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
        attention: Kernel | Sequence[Kernel] = "softmax",
        tokens: Tokens | None = None,
        keys: Keys = "context",
        looped: bool = False,
        layer_norm: bool = False,
        mlp_widening: int | None = None,
        biases: bool = False,
        embedding_size: int | None = None,
        input_mlp_widening: int | None = None,
        positions: Positions | None = None,
        combination: Combination = "concatenate",
        readout: bool = False,
        key_size: int | None = None,
        init_scale: float | Float[Array, ""] = 0.002,
        key: Key[Array, ""],
    ) -> "Transformer":
        """A transformer before training, its weights truncated normals of variance `init_scale / (layers · fan-in)`, biases 0.

        `attention` is one kind for all layers, or a kind for each, as ("softmax", "linear"). `mlp_widening` is the number of hidden units
        of each layer's MLP (GELU) over the width of a row, `input_mlp_widening` that of the MLP before the first layer; they have biases,
        attention has them where `biases` is set. `embedding_size` is the width that tokens are projected to, `readout` puts a linear map
        behind the last layer (with the first weights of `eqx.nn.Linear`), `key_size` is K, the width of a row where it is not given.

        Raises `ValueError` where sizes are below 1, do not fit each other, or kinds of attention and layers differ in number.

        Source of the initial variance: the released code of von Oswald et al. (2023).
        """
        for name, value in (("dim", dim), ("outputs", outputs), ("layers", layers), ("heads", heads)):
            count(name, value)
        stored = 1 if looped else layers
        kinds: list[Kernel] = [attention] * stored if isinstance(attention, str) else list(attention)  # pyright: ignore
        if len(kinds) != stored:
            raise InputError(
                f"there are {len(kinds)} kinds of attention for {stored} layers with weights of their own; give one for all, or one for each."
            )
        scale = positive("init_scale", init_scale) / layers
        keys_of = jax.random.split(key, 3 + len(kinds))

        def linear(inputs: int, size: int, key: Key[Array, ""]) -> eqx.nn.Linear:
            return with_truncated_normals(eqx.nn.Linear(inputs, size, use_bias=biases, key=key), scale, key=key)

        def mlp(size: int, widening: int | None, key: Key[Array, ""]) -> eqx.nn.MLP | None:
            if widening is None:
                return None
            hidden = count("the widening of an MLP", widening) * size
            return with_truncated_normals(
                eqx.nn.MLP(size, size, hidden, depth=1, activation=jax.nn.gelu, key=key), scale, key=key
            )

        embedded = dim + outputs if embedding_size is None else count("embedding_size", embedding_size)
        if embedded < outputs:
            raise InputError(f"an embedding of size {embedded} has no room for {outputs} outputs; give a larger one.")
        embedding = Embedding(
            None if embedding_size is None else linear(dim + outputs, embedded, keys_of[0]),
            mlp(embedded, input_mlp_widening, keys_of[1]),
            positions,
            combination=combination,
        )
        width = embedding.width(dim + outputs)
        if positions is not None and combination == "add" and positions.size != embedded:
            raise InputError(
                f"encodings of size {positions.size} cannot be added to rows of width {embedded}; give both the same."
            )

        def layer(kind: Kernel, key: Key[Array, ""]) -> TransformerLayer:
            attention_key, mlp_key = jax.random.split(key)
            norm = eqx.nn.LayerNorm(width) if layer_norm else None
            return TransformerLayer(
                Attention.initialise(
                    width,
                    heads=heads,
                    key_size=key_size,
                    kernel=kind,
                    biases=biases,
                    scale=scale,
                    key=attention_key,
                ),
                norm,
                mlp(width, mlp_widening, mlp_key),
                norm if mlp_widening is not None else None,
            )

        return cls(
            Joint() if tokens is None else tokens,
            embedding,
            tuple(layer(kind, k) for kind, k in zip(kinds, keys_of[3:], strict=True)),
            eqx.nn.Linear(width, outputs, key=keys_of[2]) if readout else None,
            layers=layers,
            dim=dim,
            outputs=outputs,
            keys=keys,
        )

    @classmethod
    def from_linear(cls, linear: LinearTransformer) -> "Transformer":
        """The same function as a linear transformer's. Raises `ValueError` where that one clips its activations."""
        if linear.activation_clip is not None:
            raise InputError("a Transformer does not clip activations; give a linear one without activation_clip.")
        return cls(
            Joint(linear.initial_weights),
            Embedding(),
            tuple(
                TransformerLayer(Attention(*factors))
                for factors in zip(linear.W_Q, linear.W_K, linear.W_V, linear.P, strict=True)
            ),
            layers=linear.layers,
            dim=linear.dim,
            outputs=linear.outputs,
        )

    @property
    def looped(self) -> bool:
        """Whether one layer's weights serve all layers."""
        return len(self.stored_layers) == 1 and self.layers > 1

    def trainable(self) -> PyTree[bool]:
        """Every float array but W_0 of the tokens."""
        every = super().trainable()
        return eqx.tree_at(lambda model: model.tokens, every, jax.tree.map(lambda _: False, self.tokens))

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        """The prediction; the last layer is computed for the query's row alone."""
        rows = self._embedded(prompt)
        *before, last = self._each_layer()
        for layer in before:
            rows = layer(rows, self.keys)
        return self._read(last(rows, self.keys, last=1)[0])

    def iterates(self, prompt: Prompt) -> Float[Array, "layers_and_input m"]:
        """What would be predicted from the query's row before the first and after every layer."""
        return jax.vmap(self._read)(self.residual_stream(prompt)[:, -1])

    def residual_stream(self, prompt: Prompt) -> Float[Array, "layers_and_input rows D"]:
        """All rows before the first and after every layer."""
        return self._stream(self._embedded(prompt))

    def attention_weights(self, prompt: Prompt) -> Float[Array, "layers H rows seen"]:
        """How each row weights those that it sees, in every layer and head; the query is not among these where keys are the context's.

        Raises `ValueError` where layers differ in their number of heads.
        """
        self._require_equal_heads()
        stream = self.residual_stream(prompt)
        weights = [
            layer.attention_weights(rows, self.keys)
            for layer, rows in zip(self._each_layer(), stream[:-1], strict=True)
        ]
        return jnp.stack(weights)

    def effective(self) -> tuple[Float[Array, "stored H D D"], Float[Array, "stored H D D"]]:
        """`A = W_K^T W_Q` and `B = P W_V`, for each stored layer and head; √K of softmax and biases are left out.

        Raises `ValueError` where layers differ in their number of heads.
        """
        self._require_equal_heads()
        A, B = zip(*(layer.attention.effective() for layer in self.stored_layers), strict=True)
        return jnp.stack(A), jnp.stack(B)

    def sensitivities(self, prompt: Prompt, layer: int = 1) -> Float[Array, "rows tokens"]:
        """‖∂h_j / ∂e_i‖_F, of each row after a layer by each token: what the row has from where. 0 is before the first layer.

        Raises `ValueError` where there is no such layer.
        """
        if not 0 <= layer <= self.layers:
            raise InputError(
                f"there is no layer {layer} in a transformer of {self.layers}; give one from 0 to {self.layers}."
            )
        jacobian = jax.jacfwd(lambda rows: self._stream(self.embedding(rows))[layer])(self._tokens(prompt))
        return jnp.sqrt(jnp.sum(jacobian**2, axis=(1, 3)))

    def _require_equal_heads(self) -> None:
        heads = [layer.attention.W_Q.shape[-3] for layer in self.stored_layers]
        if len(set(heads)) > 1:
            raise InputError(
                f"layers have {heads} heads, which fit into no one array; ask each of stored_layers by itself."
            )

    def _stream(self, rows: Float[Array, "rows D"]) -> Float[Array, "layers_and_input rows D"]:
        stream = [rows]
        for layer in self._each_layer():
            stream.append(layer(stream[-1], self.keys))
        return jnp.stack(stream)

    def _each_layer(self) -> tuple[TransformerLayer, ...]:
        return self.stored_layers * self.layers if self.looped else self.stored_layers

    def _embedded(self, prompt: Prompt) -> Float[Array, "rows D"]:
        return self.embedding(self._tokens(prompt))

    def _tokens(self, prompt: Prompt) -> Float[Array, "rows D"]:
        if prompt.condensed:
            raise InputError(
                "the rows of a condensed prompt are no examples, which attention has to see; give the examples."
            )
        if (prompt.dim, prompt.outputs) != (self.dim, self.outputs):
            raise InputError(
                f"the transformer is for d = {self.dim} and m = {self.outputs}, the prompt has d = {prompt.dim} and m = {prompt.outputs}; "
                "give both the same."
            )
        return self.tokens(prompt)

    def _read(self, row: Float[Array, " D"]) -> Float[Array, " m"]:
        if self.readout is not None:
            return self.readout(row)
        end = self.embedding.token_width(self.dim + self.outputs)
        return -row[end - self.outputs : end]


def _normed(norm: eqx.nn.LayerNorm | None, rows: Float[Array, "rows D"]) -> Float[Array, "rows D"]:
    return rows if norm is None else jax.vmap(norm)(rows)
