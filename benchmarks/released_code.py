"""The released code of von Oswald et al. (2023) from a checkout, its settings, and its weights in
mesalens' models. Nothing of it is part of this project.

What a current JAX and mesalens need beside it:

- `jnp.DeviceArray`, which annotations of `src/train.py` name, is `jax.Array` now;
- the optimiser: the code takes gradients of half of the squared error. Limits of gradients and
  Adam's epsilon are twice as large in mesalens, so that updates are equal;
- weights: a matrix of Haiku is applied from the right, and holds all heads.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens import LinearTransformer, Prompt, Transformer
from mesalens.models import (
    Attention,
    Embedding,
    Factors,
    Joint,
    LinearAttention,
    Sinusoidal,
    SoftmaxAttention,
    Tokens,
    TransformerLayer,
)
from mesalens.prompt import AnyPrompt
from mesalens.training import Adam

FOLDER = "transformers_learn_icl_by_gd"
SOURCE = "https://github.com/google-research/self-organising-systems"
NEEDED = ("absl-py", "dm-haiku", "ml_collections", "pytz")

Parameters = dict[str, dict[str, jax.Array]]
"""Weights as Haiku keeps them."""


class NotTheCodeError(Exception):
    """The code cannot be imported; the message says why."""


class LastEntry(Tokens):
    """Rows `x_1, (0, y_1), …, x_q` of d entries with the label in the last of them, as the code
    has interleaved tokens. (`Interleaved` has separate entries for labels.)
    """

    def context(self, prompt: Prompt) -> Float[Array, "twice_n d"]:
        labels = jnp.pad(prompt.ys, ((0, 0), (prompt.dim - prompt.outputs, 0)))
        return jnp.stack([prompt.xs, labels], axis=1).reshape(-1, prompt.dim)

    def query(self, prompt: AnyPrompt) -> Float[Array, " d"]:
        return prompt.query

    def rows(self, context_length: int) -> int:
        return 2 * context_length + 1

    def prompt(self, rows: Float[Array, "rows d"], *, outputs: int = 1) -> Prompt:
        return Prompt(rows[:-1:2], rows[1::2, -outputs:], rows[-1])


class CopyingTransformer(Transformer):
    """A transformer whose readout is not trained."""

    fixed = ("tokens", "readout")


class ReleasedCode:
    """The modules of the code, with the settings of one configuration at a time.

    Args:
        path: A checkout of the repository, or its folder.

    Raises:
        NotTheCodeError: If the folder lacks the code, or a package that it imports is missing.
    """

    def __init__(self, path: Path):
        folder = path if path.name == FOLDER else path / FOLDER
        if not (folder / "src" / "train.py").is_file():
            raise NotTheCodeError(f"{path} is not a checkout of {SOURCE} with its {FOLDER}.")
        self.commit = _commit(folder)
        jnp.DeviceArray = jax.Array  # pyright: ignore[reportAttributeAccessIssue]
        sys.path.insert(0, str(folder))
        try:
            self.train: Any = importlib.import_module("src.train")
            self.data_module: Any = importlib.import_module("src.data")
        except ImportError as error:
            raise NotTheCodeError(
                f"{folder} cannot be imported ({error}); it needs {', '.join(NEEDED)}."
            ) from error
        finally:
            sys.path.remove(str(folder))
        self.config = self.train.config
        self._defaults, self._loss = self.config.to_dict(), self.train.loss_fn
        self._creators = {
            "linear": self.data_module.create_reg_data,
            "copying": self.data_module.create_reg_data_classic_token,
            "sine": self.data_module.create_reg_data_sin,
        }

    def configure(self, settings: dict[str, Any]) -> None:
        """Replaces all settings: the given ones, and defaults. `task` names what draws prompts."""
        settings = self._defaults | settings
        creator = self._creators[settings.pop("task")]
        self.config.update(settings)
        # `update` compiles the loss, and JAX would not see that settings have changed
        apply = self._loss.apply
        self.train.loss_fn = self._loss._replace(apply=lambda *given: apply(*given))
        # As the notebooks and `change_dataloader` have it
        axes = (0, None, None, None, None, None)
        self.train.data_creator = jax.vmap(creator, in_axes=axes, out_axes=0)

    def draw(self, key: jax.Array) -> tuple[jax.Array, ...]:
        """Tokens, targets and functions of a batch, called as in the notebooks."""
        config = self.config
        return self.train.data_creator(
            jax.random.split(key, num=config.bs),
            config.input_size,
            config.dataset_size,
            config.size_distract,
            config.input_range,
            config.weight_scale,
        )

    def data(self, prompts: Prompt, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Prompts and targets in the form of `draw`."""
        tokens = LastEntry() if self.config.classic_token_const else Joint()
        return jax.vmap(tokens)(prompts), targets

    def start(self, data: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        """The optimiser and the state before training, from `init`, which reads sizes off the data
        here instead of drawing a batch.
        """
        drawn_by = self.train.data_creator
        self.train.data_creator = lambda *_: data
        try:
            optimiser, state, _, self.key = self.train.init()
        finally:
            self.train.data_creator = drawn_by
        return optimiser, state

    def random_weights(self, seed: int, data: tuple[jax.Array, ...], scale: float) -> Any:
        """Normal weights of variance `scale / fan-in`, scales of norms near 1, and biases of
        standard deviation 0.1: every weight matters.
        """
        key = jax.random.PRNGKey(0)
        shapes = jax.eval_shape(lambda: self.train.loss_fn.init(key, data, gd=False))
        leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
        rng = np.random.default_rng(seed)

        def draw(name: str, leaf: Any) -> jax.Array:
            deviation = (scale / leaf.shape[0]) ** 0.5 if len(leaf.shape) > 1 else 0.1
            values = deviation * rng.standard_normal(leaf.shape) + (name == "scale")
            return jnp.asarray(values, leaf.dtype)

        return jax.tree.unflatten(structure, [draw(path[-1].key, leaf) for path, leaf in leaves])

    def predictions(
        self, parameters: Parameters, tokens: jax.Array, *, descent: bool = False, outputs: int = 1
    ) -> jax.Array:
        """Minus the last entries of the last row; `descent` for the weights of `create_weights`."""

        @jax.jit
        def predict(parameters, tokens):
            rows = self.train.predict.apply(parameters, jax.random.PRNGKey(0), tokens, descent)
            return -rows[:, -1, -outputs:]

        return predict(parameters, tokens)

    def optimiser(self, **changes: Any) -> Adam:
        """That of `init`, for the whole squared error instead of half of it."""
        config = self.config
        given = {"learning_rate": config.lr, "b1": config.b1, "b2": config.b2}
        return Adam(**given | {"clip": 2 * config.grad_clip_value, "epsilon": 2e-8} | changes)

    def learner(self, parameters: Parameters) -> Transformer | LinearTransformer:
        """The model of the configuration in mesalens, with the given weights."""
        config = self.config
        parameters = {name.partition("/")[2]: group for name, group in parameters.items()}
        stored = 1 if config.deq else config.num_layers
        names = ["multi_head_attention"] if config.deq else []
        names = names or [f"~trans_block/layer_{number}" for number in range(stored)]
        heads = config.num_heads
        factors = [_factors(parameters, name, heads) for name in names]
        softmax = [config.use_softmax or (config.first_layer_sm and k == 0) for k in range(stored)]
        plain = not (any(softmax) or config.layer_norm or config.input_mlp or config.pos_enc)
        if plain and config.att_only_trans:
            stacked = Factors(*(jnp.stack(each) for each in zip(*factors, strict=True)))
            return LinearTransformer(
                stacked, layers=config.num_layers, activation_clip=config.clip or None
            )
        layers = tuple(
            TransformerLayer(
                Attention(*each, kind=SoftmaxAttention() if soft else LinearAttention()),
                *_norms_and_mlp(parameters, config.att_only_trans),
            )
            for each, soft in zip(factors, softmax, strict=True)
        )
        sizes = {"layers": config.num_layers, "dim": 1 if config.input_mlp else config.input_size}
        if not config.pos_enc:
            return Transformer(Joint(), _embedding(parameters), layers, **sizes)
        # Its predictions are read from the last entry of the positional encoding
        width = layers[0].attention.W_Q.shape[-1]
        readout = _linear(-jnp.eye(1, width, width - 1), jnp.zeros(1))
        embedding = Embedding(positions=Sinusoidal(config.pos_enc_size))
        return CopyingTransformer(LastEntry(), embedding, layers, readout, **sizes)


class Configuration(NamedTuple):
    """A setting of the notebooks: what is trained, and how deep its products are.

    `depth` counts layers, and an MLP as one more.
    """

    name: str
    settings: dict[str, Any]
    depth: int

    @property
    def dim(self) -> int:
        """The number d of entries of a covariate."""
        return 1 if self.settings["task"] == "sine" else self.settings["input_size"]

    @property
    def context_length(self) -> int:
        """The number n of examples."""
        return self.settings["dataset_size"]

    def but(self, name: str = "", **changes: Any) -> "Configuration":
        """The configuration with other settings."""
        return self._replace(name=name or self.name, settings=self.settings | changes)


def linear(
    layers: int = 1,
    sharing: str = "looped",
    *,
    dim: int = 10,
    context_length: int = 10,
    cut: float | None = None,
    heads: int = 1,
    **more: Any,
) -> Configuration:
    """Layers of linear attention, as in `constructed_token_setup.ipynb`; activations are cut where
    `cut` is not 0, by default as there.
    """
    looped = sharing == "looped" or layers == 1
    if cut is None:
        cut = 10.0 if layers > 3 else 0.0
    words = ["one layer" if layers == 1 else f"{layers} layers, {sharing}"]
    words += [f"{heads} heads"] if heads > 1 else []
    words += [f"cut at ±{cut:g}"] if cut else []
    settings = {
        "task": "linear",
        "analyse": False,
        "deq": looped,
        "gd_deq": looped,
        "num_layers": layers,
        "num_heads": heads,
        "input_size": dim,
        "dataset_size": context_length,
        "key_size": dim + 1,
        "emb_size": dim + 1,
        "grad_clip_value": 10.0 if layers > 2 else 0.001,
        "lr": 0.0005 if layers > 3 else 0.001,
        "init_scale": 0.002 / layers,
        "clip": cut,
    }
    return Configuration(", ".join(words), settings | more, layers)


def copying() -> Configuration:
    """Two layers on interleaved tokens, as in `normal_token_construct.ipynb`."""
    more = {
        "task": "copying",
        "classic_token_const": True,
        "first_layer_sm": True,
        "pos_enc": True,
        "pos_enc_size": 10,
        "concat_pos_enc": True,
        "key_size": 20,
        "ana_copy": True,
        "grad_clip_value": 10.0,
        "init_scale": 0.02 / 2,
    }
    name = "copying: softmax, then linear, interleaved tokens"
    return linear(2, "unshared").but(name, **more)


def sine() -> Configuration:
    """An MLP under one layer, as in `non_linear_regression.ipynb`."""
    more = {
        "task": "sine",
        "non_linear_reg_task": True,
        "input_size": 39,
        "key_size": 40,
        "emb_size": 40,
        "in_proj": True,
        "input_mlp": True,
        "input_mlp_out_dim": 40,
        "grad_clip_value": 100.0,
        "input_range": 10.0,
    }
    return linear().but("sine: MLP, then one linear layer", **more)._replace(depth=2)


def _commit(folder: Path) -> str:
    """The commit of the checkout, with "+" if the code was changed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--", "src"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _factors(parameters: Parameters, name: str, heads: int) -> tuple[jax.Array, ...]:
    """W_Q, W_K, W_V and P of a layer, with an axis of heads."""

    def of(kind: str) -> jax.Array:
        return parameters[f"{name}/{kind}"]["w"]

    from_rows = [
        jnp.moveaxis(of(kind).reshape(len(of(kind)), heads, -1), 0, 2)
        for kind in ("query", "key", "value")
    ]
    projection = of("linear")
    to_rows = jnp.swapaxes(projection.reshape(heads, -1, projection.shape[1]), 1, 2)
    return (*from_rows, to_rows)


def _norms_and_mlp(parameters: Parameters, attention_only: bool) -> tuple[Any, ...]:
    """The norm before attention, the MLP and its norm of a looped transformer."""
    norms = [
        eqx.tree_at(
            lambda norm: (norm.weight, norm.bias),
            eqx.nn.LayerNorm(len(group["scale"])),
            (group["scale"], group["offset"]),
        )
        for name in ("l_norm", "l_norm_1")
        if (group := parameters.get(f"{name}/layer_norm"))
    ] or [None, None]
    mlp = None if attention_only else _mlp(parameters, "mlp")
    return norms[0], mlp, None if mlp is None else norms[-1]


def _embedding(parameters: Parameters) -> Embedding:
    if "emb" not in parameters:
        return Embedding()
    return Embedding(_linear(parameters["emb"]["w"].T), _mlp(parameters, "input_mlp"))


def _mlp(parameters: Parameters, name: str) -> eqx.nn.MLP:
    first, second = (parameters[f"{name}/{part}"] for part in ("linear", "linear_1"))
    inputs, hidden = first["w"].shape
    mlp = eqx.nn.MLP(
        inputs,
        second["w"].shape[1],
        hidden,
        depth=1,
        activation=jax.nn.gelu,
        use_bias="b" in first,
        use_final_bias="b" in second,
        key=jax.random.key(0),
    )
    layers = tuple(_linear(each["w"].T, each.get("b")) for each in (first, second))
    return eqx.tree_at(lambda mlp: mlp.layers, mlp, layers)


def _linear(weight: jax.Array, bias: jax.Array | None = None) -> eqx.nn.Linear:
    outputs, inputs = weight.shape
    linear = eqx.nn.Linear(inputs, outputs, use_bias=bias is not None, key=jax.random.key(0))
    linear = eqx.tree_at(lambda linear: linear.weight, linear, weight)
    return linear if bias is None else eqx.tree_at(lambda linear: linear.bias, linear, bias)
