"""`LinearTransformer`: layers of linear self-attention, without softmax, norm or MLP."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, positive
from mesalens.learners.base import IterativeLearner
from mesalens.models.initial_weights import Scale
from mesalens.models.linear_batch import clipped, labels_after, through
from mesalens.models.tokens import Joint, require_sizes
from mesalens.models.weights.base import Effective, LinearWeights, Matrices, Sizes
from mesalens.models.weights.factors import Factors
from mesalens.models.weights.merged import Merged
from mesalens.prompt import AnyPrompt

MOST_LAYERS = 10_000
"""Layers and heads are written out in programs, so that there cannot be many more."""


class LinearTransformer(IterativeLearner):
    r"""L layers of linear self-attention with H heads on tokens `e_i = (x_i, y_i)`.

    A token has D = d + m entries.

    Keys and values come from the context only. Let A_h and B_h be the effective matrices of
    `weights` (for separate factors `A = W_K^T W_Q` and `B = P W_V`), and `S = Σ_i e_i e_i^T`. A
    layer changes every token, the query's included, by

    $$e_j \leftarrow e_j + \sum_h B_h \sum_i e_i (e_i \cdot A_h e_j) = e_j + \sum_h B_h S A_h e_j.$$

    The query token is `(x_q, -W_0 x_q)`, and the prediction is minus the y-part of the query token
    after the last layer. A looped transformer stores the weights of one layer and applies it
    `layers` times.

    Attributes:
        weights: The parameters, in a [structure][mesalens.models.LinearWeights] of your choice.
        layers: Number of layers L.
        outputs: m, the number of entries of a label.
        initial_weights: W_0, of shape (m, d). Zero by default. Training does not change it. A
            structure that trains a W_0 (`DescentStep`, `LinearBlock`) needs None.
        activation_clip: If given, the entries of all tokens are clipped to ± this after each layer.

    Source: von Oswald et al. (2023), Section 2 and Proposition 1.

    Examples:
        >>> import jax
        >>> from mesalens import LinearTransformer, random, tasks
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(3), tasks.LinearFunctions(3), context_length=10
        ... )
        >>> prompts, targets = task.sample(random.key(0), (4,))
        >>> model = LinearTransformer.initialise(3, layers=2, key=random.key(1))
        >>> model.batch(prompts).shape
        (4, 1)
    """

    weights: LinearWeights
    layers: int = eqx.field(static=True, kw_only=True)
    outputs: int = eqx.field(static=True, default=1, kw_only=True)
    initial_weights: Float[Array, "m d"] | None = eqx.field(default=None, kw_only=True)
    activation_clip: float | None = eqx.field(static=True, default=None, kw_only=True)

    sees_only_sum = True
    fixed = ("initial_weights",)

    def __check_init__(self):
        require_layers(self.layers, self.stored)
        if self.activation_clip is not None:
            positive("activation_clip", self.activation_clip)
        if self.layers > 1 and self.weights.one_layer:
            raise InputError(
                f"layers must be 1 for {type(self.weights).__name__}; got {self.layers}."
            )
        if self.initial_weights is not None and self.weights.start() is not None:
            raise InputError(
                f"initial_weights must be None, as {type(self.weights).__name__} has its own W_0."
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
        structure: Callable[..., LinearWeights] = Factors.initialise,
        initial_weights: Float[Array, "m d"] | None = None,
        activation_clip: float | None = None,
        init_scale: Scale = 0.002,
        key: Key[Array, ""],
    ) -> "LinearTransformer":
        """A transformer before training, with weights of variance `init_scale / (layers · fan-in)`.

        Args:
            dim: d, the number of entries of a covariate.
            outputs: m, the number of entries of a label.
            layers: Number of layers L.
            heads: Number of heads H.
            looped: Whether all layers share the weights of one.
            structure: What creates the weights, such as `Sparse.initialise` or, for factors of rank
                3, `functools.partial(Factors.initialise, key_size=3)`.
            initial_weights: W_0, of shape (m, d). Zero by default.
            activation_clip: The largest absolute value of an entry of a token after a layer.
            init_scale: The variance of a weight times layers and fan-in.
            key: A random key.

        Raises:
            ValueError: If a size is below 1, `init_scale` is not positive, or W_0 is not m × d.

        Source of the initial variance: the released code of von Oswald et al. (2023).
        """
        count("dim", dim)
        count("outputs", outputs)
        count("layers", layers, at_most=MOST_LAYERS)
        count("heads", heads, at_most=MOST_LAYERS)
        start = Joint(initial_weights).start(dim, outputs)
        sizes = Sizes(1 if looped else layers, heads, dim, outputs)
        return cls(
            structure(sizes, scale=positive("init_scale", init_scale) / layers, key=key),
            layers=layers,
            outputs=outputs,
            initial_weights=start,
            activation_clip=activation_clip,
        )

    @classmethod
    def from_effective(cls, A: Matrices, B: Matrices, **options: Any) -> "LinearTransformer":
        """A transformer with the given effective matrices, in the structure `Merged`.

        Args:
            A: Of shape (stored layers, H, D, D).
            B: Of shape (stored layers, H, D, D).
            **options: Arguments of the class: `layers` (required), `outputs`, `initial_weights` and
                `activation_clip`.
        """
        return cls(Merged(A, B), **options)

    @property
    def stored(self) -> int:
        """The number of layers with separate weights."""
        return jax.eval_shape(self.effective)[0].shape[0]

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return jax.eval_shape(self.effective)[0].shape[-1] - self.outputs

    @property
    def start(self) -> Float[Array, "m d"] | None:
        """W_0 of the query token: `initial_weights`, or that of the weights; None for zero."""
        return self.weights.start() if self.initial_weights is None else self.initial_weights

    @property
    def looped(self) -> bool:
        """Whether all layers share the weights of one."""
        return self.stored == 1 and self.layers > 1

    def effective(self) -> Effective:
        """A and B of each stored layer and head, each of shape (stored layers, H, D, D)."""
        return self.weights.effective()

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        """The prediction, in O(n D) for one layer and O(n D² + L D³) for more.

        One layer does not even need S. (Clipping needs all tokens: O(L n D²).)
        """
        if self.layers > 1 or self.activation_clip is not None:
            return self.iterates(prompt)[-1]
        context, token = self._tokens(prompt)
        A, B = self.effective()
        return -(token + _attend(context, A[0], B[0], token))[prompt.dim :]

    def iterates(self, prompt: AnyPrompt) -> Float[Array, "layers_and_input m"]:
        """The predictions that the query token gives before the first and after every layer.

        The context enters only through S: a layer multiplies every token by
        `T = I + Σ_h B_h S A_h`, hence `S <- T S T^T`, and only S and the query token are carried
        from layer to layer.
        """
        if self.activation_clip is not None:
            return -self.residual_stream(prompt)[:, -1, prompt.dim :]
        context, query = self._tokens(prompt)

        def layer(carry, matrices):
            S, token = carry
            update = jnp.einsum("hij,jk,hkl->il", matrices[1], S, matrices[0])
            token = token + update @ token
            S = S + update @ S
            return (S + S @ update.T, token), token

        _, tokens = through(layer, (context.T @ context, query), self._each_layer())
        return -jnp.concatenate([query[None], jnp.asarray(tokens)])[:, prompt.dim :]

    def batch(self, prompts: AnyPrompt) -> Float[Array, "batch m"]:
        """The predictions for a batch, several times faster than `jax.vmap` for several layers."""
        if self.layers == 1 and self.activation_clip is None:
            return jax.vmap(self)(prompts)
        contexts, queries = jax.vmap(self._tokens)(prompts)
        limit = self.activation_clip
        return -labels_after(self._each_layer(), contexts, queries, self.dim, limit)

    def repeated(
        self, times: int, *, damping: float | Float[Array, ""] = 1.0
    ) -> "LinearTransformer":
        """One layer applied several times with a damping λ, `e <- e + λ Σ_h B_h S A_h e`.

        Args:
            times: How often the layer is applied.
            damping: λ.

        Raises:
            ValueError: If the layers have separate weights, `times` is below 1, or the damping is
                not positive.
        """
        count("times", times)
        positive("damping", damping)
        self._require_stream("repeated")
        if self.stored != 1:
            raise InputError(
                f"{self.layers} layers with separate weights cannot be repeated; give a looped "
                "transformer."
            )
        A, B = self.effective()
        weights = Merged(A, damping * B)
        return dataclasses.replace(self, weights=weights, layers=times, initial_weights=self.start)

    def token_by_token(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        """The prediction computed token by token, in O(L n² D): the reference for the fast paths.

        Args:
            prompt: One prompt.
        """
        return -self.residual_stream(prompt)[-1, -1, prompt.dim :]

    def residual_stream(self, prompt: AnyPrompt) -> Float[Array, "layers_and_input rows D"]:
        """All tokens before and after every layer, of shape (L + 1, n + 1, D), the query's last.

        This is attention as in textbooks: every token attends to every token of the context.

        Args:
            prompt: One prompt.
        """
        self._require_stream("residual_stream")
        context, token = self._tokens(prompt)
        stream = [jnp.concatenate([context, token[None]])]
        for A, B in self._each_layer():
            tokens = stream[-1]
            attention = jnp.einsum("id,hde,je->hji", tokens[:-1], A, tokens)
            added = jnp.einsum("hde,hji,ie->jd", B, attention, tokens[:-1])
            stream.append(clipped(tokens + added, self.activation_clip))
        return jnp.stack(stream)

    def _require_stream(self, name: str) -> None:
        if self.weights.one_layer:
            given = type(self.weights).__name__
            raise InputError(
                f"{name} is not defined for {given}, whose tokens are not those of attention."
            )

    def _each_layer(self) -> list[tuple[Float[Array, "H D D"], Float[Array, "H D D"]]]:
        A, B = self.effective()
        return [(A[0], B[0])] * self.layers if len(A) == 1 else list(zip(A, B, strict=True))

    def _tokens(self, prompt: AnyPrompt) -> tuple[Float[Array, "n D"], Float[Array, " D"]]:
        require_sizes(prompt, self.dim, self.outputs)
        tokens = Joint(self.start)
        return tokens.context(prompt), tokens.query(prompt)


def require_layers(layers: int, stored: int) -> None:
    """Raises `ValueError` unless weights are stored for all layers, or for one of them."""
    if stored not in (1, count("layers", layers)):
        raise InputError(
            f"weights are stored for {stored} layers; give them for all {layers} or for one."
        )


def _attend(context, A, B, token):
    """Σ_h B_h S A_h e_q by two products with the context, without forming S."""
    scores = jnp.einsum("ni,hi->hn", context, A @ token)
    return jnp.einsum("hij,hj->i", B, jnp.einsum("ni,hn->hi", context, scores))
