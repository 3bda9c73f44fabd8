"""`Transformer`: attention, norm, MLP, positions and tokens, each a free choice."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, positive
from mesalens.learners.base import IterativeLearner
from mesalens.models.attention.base import AttentionKind
from mesalens.models.attention.heads import Attention
from mesalens.models.attention.linear import LinearAttention
from mesalens.models.attention.softmax import SoftmaxAttention
from mesalens.models.embedding import Combination, Embedding
from mesalens.models.initial_weights import Scale, with_truncated_normals
from mesalens.models.layer_forms import Heads, last_rows
from mesalens.models.linear_transformer import MOST_LAYERS, LinearTransformer, require_layers
from mesalens.models.positions import Positions
from mesalens.models.row_products import by_rows
from mesalens.models.small_matrices import lanes_for
from mesalens.models.tokens import Joint, Tokens, require_sizes
from mesalens.models.visibility.base import Visibility
from mesalens.models.visibility.context_only import ContextOnly
from mesalens.models.weights.base import Effective
from mesalens.models.weights.factors import Factors
from mesalens.prompt import Prompt


class TransformerLayer(eqx.Module):
    """One layer, `h <- h + Attention(norm(h))` and then `h <- h + MLP(norm(h))`.

    Attributes:
        attention: The attention heads.
        attention_norm: The norm before attention, or None.
        mlp: The MLP, or None.
        mlp_norm: The norm before the MLP, or None.
    """

    attention: Attention
    attention_norm: eqx.nn.LayerNorm | None = None
    mlp: eqx.nn.MLP | None = None
    mlp_norm: eqx.nn.LayerNorm | None = None

    def __call__(
        self, rows: Float[Array, "rows D"], visibility: Visibility, *, last: int | None = None
    ) -> Float[Array, "asked D"]:
        """The rows after the layer.

        Args:
            rows: Of shape (rows, D).
            visibility: Which rows each row sees.
            last: If given, only the last so many rows are computed, which costs less.
        """
        asked = slice(None) if last is None else slice(-last, None)
        after = rows[asked] + self.attention(*self._reads(rows, visibility, asked))
        if self.mlp is None:
            return after
        return after + jax.vmap(by_rows(self.mlp))(_normed(self.mlp_norm, after))

    def attention_weights(
        self, rows: Float[Array, "rows D"], visibility: Visibility
    ) -> Float[Array, "H rows seen"]:
        """The weights with which each row attends to those that it sees, of shape (H, rows, seen).

        Args:
            rows: Of shape (rows, D).
            visibility: Which rows each row sees.
        """
        return self.attention.weights(*self._reads(rows, visibility, slice(None)))

    def _reads(self, rows, visibility: Visibility, asked: slice):
        normed = _normed(self.attention_norm, rows)
        seen = visibility.seen(len(rows))
        queries = normed if asked == slice(None) else normed[asked]
        return queries, visibility.keys(normed), None if seen is None else seen[asked]


class Transformer(IterativeLearner):
    """L layers of attention and MLPs on the tokens of a prompt; each part can be chosen freely.

    The prediction is minus the y-part of the query's row after the last layer (see
    [`Embedding`][mesalens.models.Embedding]), or `readout` of that row. A looped transformer stores
    one layer and applies it `layers` times. With linear attention on joint tokens and nothing else
    this computes the same as a [`LinearTransformer`][mesalens.models.LinearTransformer], which is
    faster.

    Attributes:
        tokens: How the prompt is laid out as rows.
        embedding: What is done to the rows before the first layer.
        stored_layers: The layers that have weights, all L or a single one.
        readout: A linear map from the query's row to the prediction, or None.
        layers: Number of layers L.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
        visibility: Which rows each row sees. By default those of the context.

    Source: von Oswald et al. (2023), Sections 2 to 5; Vaswani et al. (2017); norms come first as in
    Xiong et al. (2020).

    Examples:
        >>> from mesalens import Transformer, random
        >>> model = Transformer.initialise(
        ...     3, layers=2, heads=4, layer_norm=True, mlp_widening=4, key=random.key(0)
        ... )
        >>> len(model.stored_layers), model.outputs
        (2, 1)
    """

    fixed = ("tokens",)

    tokens: Tokens
    embedding: Embedding
    stored_layers: tuple[TransformerLayer, ...]
    readout: eqx.nn.Linear | None = None
    layers: int = eqx.field(static=True, kw_only=True)
    dim: int = eqx.field(static=True, kw_only=True)
    outputs: int = eqx.field(static=True, default=1, kw_only=True)
    visibility: Visibility = eqx.field(default_factory=ContextOnly, kw_only=True)

    def __check_init__(self):
        require_layers(self.layers, len(self.stored_layers))

    @classmethod
    def initialise(
        cls,
        dim: int,
        outputs: int = 1,
        *,
        layers: int = 1,
        heads: int = 1,
        looped: bool = False,
        attention: AttentionKind | None = None,
        first_attention: AttentionKind | None = None,
        tokens: Tokens | None = None,
        visibility: Visibility | None = None,
        layer_norm: bool = False,
        mlp_widening: int | None = None,
        biases: bool = False,
        embedding_size: int | None = None,
        input_mlp_widening: int | None = None,
        positions: Positions | None = None,
        combination: Combination = "concatenate",
        readout: bool = False,
        key_size: int | None = None,
        init_scale: Scale = 0.002,
        key: Key[Array, ""],
    ) -> "Transformer":
        """A transformer before training, with weights of variance `init_scale / (layers · fan-in)`.

        Weights are truncated normals and biases 0. The readout has the initial weights of
        `eqx.nn.Linear`.

        Args:
            dim: d, the number of entries of a covariate.
            outputs: m, the number of entries of a label.
            layers: Number of layers L.
            heads: Number of heads H of every layer.
            looped: Whether all layers share the weights of one.
            attention: The kind of attention. Softmax by default.
            first_attention: Another kind for the first layer.
            tokens: The layout of a prompt. `Joint` by default.
            visibility: Which rows each row sees. `ContextOnly` by default.
            layer_norm: Whether norms come before attention and MLP.
            mlp_widening: The number of hidden units of each layer's MLP (GELU), divided by the
                width of a row. No MLP by default.
            biases: Whether attention and embedding have biases. MLPs always have them.
            embedding_size: The width to which tokens are projected. No projection by default.
            input_mlp_widening: As `mlp_widening`, for an MLP before the first layer.
            positions: Positional encodings.
            combination: `"concatenate"` or `"add"`: how encodings are combined with the rows.
            readout: Whether the prediction is a linear map of the query's row.
            key_size: K. By default the width of a row.
            init_scale: The variance of a weight times layers and fan-in.
            key: A random key.

        Raises:
            ValueError: If a size is below 1, or sizes do not match.

        Source of the initial variance: the released code of von Oswald et al. (2023).
        """
        count("dim", dim)
        count("outputs", outputs)
        count("layers", layers, at_most=MOST_LAYERS)
        count("heads", heads, at_most=MOST_LAYERS)
        if looped and layers > 1 and first_attention is not None:
            raise InputError(
                "first_attention and looped cannot be combined, as all layers are the same."
            )
        scale = positive("init_scale", init_scale) / layers
        stored = 1 if looped else layers
        token_key, mlp_key, readout_key, *layer_keys = jax.random.split(key, 3 + stored)
        kinds = [attention or SoftmaxAttention()] * stored
        kinds[0] = first_attention or kinds[0]

        def mlp(name: str, size: int, widening: int | None, key: Key[Array, ""]):
            if widening is None:
                return None
            hidden = count(name, widening) * size
            part = eqx.nn.MLP(size, size, hidden, depth=1, activation=jax.nn.gelu, key=key)
            return with_truncated_normals(part, scale, key=key)

        embedded = dim + outputs
        projection = None
        if embedding_size is not None:
            embedded = count("embedding_size", embedding_size, at_least=outputs)
            linear = eqx.nn.Linear(dim + outputs, embedded, use_bias=biases, key=token_key)
            projection = with_truncated_normals(linear, scale, key=token_key)
        input_mlp = mlp("input_mlp_widening", embedded, input_mlp_widening, mlp_key)
        embedding = Embedding(projection, input_mlp, positions, combination=combination)
        width = embedding.width(dim + outputs)

        def layer(kind: AttentionKind, key: Key[Array, ""]) -> TransformerLayer:
            attention_key, mlp_key = jax.random.split(key)
            options = {"heads": heads, "key_size": key_size, "kind": kind, "biases": biases}
            attend = Attention.initialise(width, **options, scale=scale, key=attention_key)
            norm = eqx.nn.LayerNorm(width) if layer_norm else None
            after = mlp("mlp_widening", width, mlp_widening, mlp_key)
            return TransformerLayer(attend, norm, after, None if after is None else norm)

        return cls(
            Joint() if tokens is None else tokens,
            embedding,
            tuple(layer(kind, k) for kind, k in zip(kinds, layer_keys, strict=True)),
            eqx.nn.Linear(width, outputs, key=readout_key) if readout else None,
            layers=layers,
            dim=dim,
            outputs=outputs,
            visibility=ContextOnly() if visibility is None else visibility,
        )

    @classmethod
    def from_linear(cls, linear: LinearTransformer) -> "Transformer":
        """A transformer that computes the same function as a linear transformer.

        Args:
            linear: The linear transformer.

        Raises:
            ValueError: If it clips its activations.
        """
        if linear.activation_clip is not None:
            raise InputError("a Transformer has no activation_clip; give a model without one.")
        weights, (A, B) = linear.weights, linear.effective()
        eye = jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape)
        factors = weights if isinstance(weights, Factors) else Factors(A, eye, eye, B)
        each = zip(factors.W_Q, factors.W_K, factors.W_V, factors.P, strict=True)
        return cls(
            Joint(linear.start),
            Embedding(),
            tuple(TransformerLayer(Attention(*of_layer)) for of_layer in each),
            layers=linear.layers,
            dim=linear.dim,
            outputs=linear.outputs,
        )

    @property
    def looped(self) -> bool:
        """Whether all layers share the weights of one."""
        return len(self.stored_layers) == 1 and self.layers > 1

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        """The prediction; the last layer is computed for the query's row alone."""
        rows = self._rows(prompt)
        *before, last = self._each_layer()
        for layer in before:
            rows = layer(rows, self.visibility)
        return self._read(last(rows, self.visibility, last=1)[0])

    def batch(self, prompts: Prompt) -> Float[Array, "batch m"]:
        """The predictions for a batch, faster than `jax.vmap` if layers are attention alone.

        They then have no norms, MLPs and biases, attention is linear or softmax, and rows see those
        of the context.
        """
        rows = jax.eval_shape(jax.vmap(self._rows), prompts).shape[1]
        if not self._attends_alone(rows):
            return super().batch(prompts)
        return jax.vmap(self._read)(last_rows(jax.vmap(self._rows)(prompts), self._heads()))

    def iterates(self, prompt: Prompt) -> Float[Array, "layers_and_input m"]:
        """The predictions that the query's row gives before the first and after every layer."""
        return jax.vmap(self._read)(self.residual_stream(prompt)[:, -1])

    def residual_stream(self, prompt: Prompt) -> Float[Array, "layers_and_input rows D"]:
        """All rows before the first and after every layer, of shape (L + 1, rows, D).

        Args:
            prompt: One prompt.
        """
        return self._stream(self._rows(prompt))

    def attention_weights(self, prompt: Prompt) -> Float[Array, "layers H rows seen"]:
        """The weights with which each row attends to those it sees, of shape (L, H, rows, seen).

        With `ContextOnly` the query's row is not among those seen.

        Args:
            prompt: One prompt.

        Raises:
            ValueError: If layers have different numbers of heads.
        """
        self._require_equal_heads()
        each = zip(self._each_layer(), self.residual_stream(prompt)[:-1], strict=True)
        return jnp.stack([layer.attention_weights(rows, self.visibility) for layer, rows in each])

    def effective(self) -> Effective:
        """`A = W_K^T W_Q` and `B = P W_V` of each stored layer and head, without √K and biases.

        Raises:
            ValueError: If layers have different numbers of heads.
        """
        self._require_equal_heads()
        A, B = zip(*(layer.attention.effective() for layer in self.stored_layers), strict=True)
        return jnp.stack(A), jnp.stack(B)

    def sensitivities(self, prompt: Prompt, layer: int = 1) -> Float[Array, "rows tokens"]:
        """‖∂h_j / ∂e_i‖_F of each row j after a layer by each token i, of shape (rows, tokens).

        It shows from which tokens a row gets its content.

        Args:
            prompt: One prompt.
            layer: From 0, the rows before the first layer, to L.

        Raises:
            ValueError: If the layer does not exist.
        """
        count("layer", layer, at_least=0, at_most=self.layers)
        tokens = self._tokens(prompt)
        jacobian = jax.jacfwd(lambda rows: self._stream(self.embedding(rows))[layer])(tokens)
        return jnp.sqrt(jnp.sum(jacobian**2, axis=(1, 3)))

    def _require_equal_heads(self) -> None:
        heads = [layer.attention.W_Q.shape[-3] for layer in self.stored_layers]
        if len(set(heads)) > 1:
            raise InputError(
                f"layers must have equally many heads, not {heads} heads; use each of "
                "stored_layers instead."
            )

    def _stream(self, rows: Float[Array, "rows D"]) -> Float[Array, "layers_and_input rows D"]:
        stream = [rows]
        for layer in self._each_layer():
            stream.append(layer(stream[-1], self.visibility))
        return jnp.stack(stream)

    def _each_layer(self) -> tuple[TransformerLayer, ...]:
        return self.stored_layers * self.layers if self.looped else self.stored_layers

    def _attends_alone(self, rows: int) -> bool:
        """Whether all layers are attention that can be computed on tiles of prompts."""
        return type(self.visibility) is ContextOnly and all(
            layer.attention_norm is None
            and layer.mlp is None
            and layer.attention.b_Q is None
            and type(layer.attention.kind) in (LinearAttention, SoftmaxAttention)
            and lanes_for(2, max(rows, layer.attention.W_Q.shape[-1])) > 1
            for layer in self.stored_layers
        )

    def _heads(self) -> Iterator[tuple[Heads, Heads, float | None]]:
        """A and B of each layer, and the scale of the scores of softmax attention, or None."""
        for layer in self._each_layer():
            softmax = type(layer.attention.kind) is SoftmaxAttention
            scale = layer.attention.W_Q.shape[1] ** -0.5 if softmax else None
            yield *layer.attention.effective(), scale

    def _rows(self, prompt: Prompt) -> Float[Array, "rows D"]:
        return self.embedding(self._tokens(prompt))

    def _tokens(self, prompt: Prompt) -> Float[Array, "rows D"]:
        require_sizes(prompt, self.dim, self.outputs)
        return self.tokens(prompt)

    def _read(self, row: Float[Array, " D"]) -> Float[Array, " m"]:
        if self.readout is not None:
            return self.readout(row)
        end = self.embedding.token_width(self.dim + self.outputs)
        return -row[end - self.outputs : end]


def _normed(norm: eqx.nn.LayerNorm | None, rows: Float[Array, "rows D"]) -> Float[Array, "rows D"]:
    return rows if norm is None else jax.vmap(norm)(rows)
