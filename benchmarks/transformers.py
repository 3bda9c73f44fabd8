"""How fast gradient steps of transformers are, beside the textbook ways.

Two models of von Oswald et al. (2023) at the sizes of the paper: two layers on interleaved tokens,
softmax first (`copying`), and an MLP under one linear layer (`sine`); one layer of softmax
attention with two heads; and a causal transformer like GPT-2, four layers of width 64. Batches have
2048 prompts (the last: 256), d = n = 10 (`sine`: d = 1). The loss is that of the query alone;
mesalens has no objective that sums losses over all positions.

All ways have the same weights and prompts, and must agree on predictions, loss and gradients before
they are timed:

- mesalens: `Transformer`, whose last layer is computed for the query alone, whose attention
  multiplies `W_K^T W_Q` and `P W_V` once for all prompts (unless heads are narrow), and whose input
  projection and MLP are multiplied together; that of `sine` in eight microbatches, as in the
  study's budget `paper`;
- textbook: queries, keys and values of every row in every layer, the MLP on the projected rows;
- PyTorch: the same modules, with `scaled_dot_product_attention` where there is a softmax.

They take turns in one process: five gradient steps in one compiled loop, or in a Python loop of
PyTorch.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import limits
import numpy as np
from ways import (
    NotRunError,
    PyTorch,
    Repeated,
    assert_close,
    described,
    in_turns,
    quickly,
    torch_textbook,
)

from mesalens import Prompt, Transformer, random
from mesalens.models import (
    Causal,
    Interleaved,
    Learned,
    LinearAttention,
    Sinusoidal,
    SoftmaxAttention,
)
from mesalens.program_cache import often
from mesalens.tasks import LinearFunctions, RegressionTask, SineWaves, Task, Uniform

STEPS, RATE = 5, 1e-6
BATCHES = {"copying": 2048, "sine": 2048, "softmax, two heads": 2048, "GPT-like": 256}
MICROBATCHES = {"sine": 8}
"""The parts of a batch in which mesalens computes a gradient, as the study does at these sizes:
their arrays fit in a cache."""
LINEAR = RegressionTask(Uniform(10, 0.5), LinearFunctions(10), context_length=10)

CASES: dict[str, tuple[Task, Callable[..., Transformer]]] = {
    "copying": (
        LINEAR,
        functools.partial(
            Transformer.initialise,
            10,
            layers=2,
            attention=LinearAttention(),
            first_attention=SoftmaxAttention(),
            tokens=Interleaved(),
            positions=Sinusoidal(10),
            init_scale=0.5,
        ),
    ),
    "sine": (
        RegressionTask(Uniform(1, 5.0), SineWaves(1), context_length=10),
        functools.partial(
            Transformer.initialise,
            1,
            attention=LinearAttention(),
            embedding_size=40,
            input_mlp_widening=4,
            init_scale=0.1,
        ),
    ),
    "softmax, two heads": (
        LINEAR,
        functools.partial(Transformer.initialise, 10, heads=2, init_scale=0.5),
    ),
    "GPT-like": (
        LINEAR,
        lambda key: Transformer.initialise(
            10,
            layers=4,
            heads=4,
            key_size=16,
            tokens=Interleaved(),
            visibility=Causal(),
            embedding_size=64,
            positions=Learned.initialise(21, 64, key=key),
            combination="add",
            layer_norm=True,
            mlp_widening=4,
            readout=True,
            init_scale=1.0,
            key=key,
        ),
    ),
}


def textbook(model: Transformer, prompt: Prompt) -> jax.Array:
    """The prediction, row by row as the formulas stand."""
    rows = model.tokens(prompt)
    embedding, causal = model.embedding, isinstance(model.visibility, Causal)
    if embedding.projection is not None:
        rows = jax.vmap(embedding.projection)(rows)
    if embedding.mlp is not None:
        rows = rows + jax.vmap(embedding.mlp)(rows)
    if embedding.positions is not None:
        encodings = embedding.positions(len(rows))
        added = embedding.combination == "add"
        rows = rows + encodings if added else jnp.concatenate([rows, encodings], axis=1)
    for layer in model.stored_layers:
        attention = layer.attention
        normed = rows if layer.attention_norm is None else jax.vmap(layer.attention_norm)(rows)
        context = normed if causal else normed[:-1]
        queries = jnp.einsum("td,hkd->htk", normed, attention.W_Q)
        keys = jnp.einsum("td,hkd->htk", context, attention.W_K)
        values = jnp.einsum("td,hkd->htk", context, attention.W_V)
        weights = jnp.einsum("htk,hsk->hts", queries, keys)
        if isinstance(attention.kind, SoftmaxAttention):
            logits = weights / attention.W_Q.shape[1] ** 0.5
            if causal:
                logits = jnp.where(jnp.tril(jnp.ones(logits.shape[1:], bool)), logits, -jnp.inf)
            weights = jax.nn.softmax(logits)
        rows = rows + jnp.einsum("hts,hsk,hdk->td", weights, values, attention.P)
        if layer.mlp is not None:
            normed = rows if layer.mlp_norm is None else jax.vmap(layer.mlp_norm)(rows)
            rows = rows + jax.vmap(layer.mlp)(normed)
    if model.readout is not None:
        return model.readout(rows[-1])
    width = embedding.token_width(prompt.dim + prompt.outputs)
    return -rows[-1, width - prompt.outputs : width]


FORWARD: dict[str, Callable[[Transformer, Prompt], jax.Array]] = {
    "mesalens": lambda model, prompts: model.batch(prompts),
    "textbook": lambda model, prompts: jax.vmap(functools.partial(textbook, model))(prompts),
}


class Case:
    """A model, a batch of prompts, and gradient steps on it in each way."""

    def __init__(self, name: str, batch_size: int):
        task, initialise = CASES[name]
        self.name, self.model = name, initialise(key=random.key(0))
        prompts, self.targets = task.sample(random.key(1), (batch_size,))
        self.prompts: Any = prompts
        self.parameters, self._fixed = eqx.partition(self.model, self.model.trainable())

    def predictions(self, way: str, parameters, prompts: Any = None) -> jax.Array:
        """Of the batch, or of other prompts."""
        model = eqx.combine(parameters, self._fixed)
        return FORWARD[way](model, self.prompts if prompts is None else prompts)[:, 0]

    def loss(self, way: str, parameters) -> jax.Array:
        """Mean squared error."""
        return jnp.mean((self.predictions(way, parameters) - self.targets[:, 0]) ** 2)

    def gradient(self, way: str, parameters) -> Any:
        """Of the loss; of mesalens in microbatches, as `train` computes it."""
        parts = MICROBATCHES.get(self.name, 1) if way == "mesalens" else 1
        if parts == 1:
            return jax.grad(functools.partial(self.loss, way))(parameters)

        def loss(parameters, prompts, targets):
            return jnp.mean((self.predictions(way, parameters, prompts) - targets) ** 2)

        def add(total, part):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(parameters, *part)), None

        given = self.prompts, self.targets[:, 0]
        each = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), given)
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return jax.tree.map(lambda leaf: leaf / parts, jax.lax.scan(add, zeros, each)[0])

    def steps(self, way: str) -> Any:
        """Gradient steps, compiled, those of mesalens with the options that `train` uses."""

        def step(parameters, _):
            slopes = self.gradient(way, parameters)
            moved = jax.tree.map(lambda weight, slope: weight - RATE * slope, parameters, slopes)
            return moved, None

        options: Any = often() if way == "mesalens" else {}
        loop = jax.jit(
            lambda start: jax.lax.scan(step, start, None, length=STEPS)[0], compiler_options=options
        )
        return loop.lower(self.parameters).compile()

    def torch_training(self, compiled: bool, module: Any) -> Any:
        """Gradient steps in PyTorch."""
        kinds = [
            isinstance(layer.attention.kind, SoftmaxAttention) for layer in self.model.stored_layers
        ]
        causal = isinstance(self.model.visibility, Causal)
        made = module.TorchTransformer(self.model, kinds, causal)
        rows = jax.vmap(self.model.tokens)(self.prompts)
        return module.GivenPrompts(made, rows, self.targets[:, 0], RATE, compiled=compiled)

    def check(self) -> None:
        """Raises `AssertionError` unless all ways compute the same."""

        def results_of(way: str) -> tuple[Any, Any, Any]:
            loss = functools.partial(self.loss, way)

            @functools.partial(jax.jit, compiler_options=quickly())
            def results(parameters):
                value, gradient = loss(parameters), self.gradient(way, parameters)
                return self.predictions(way, parameters), value, gradient

            return results(self.parameters)

        results = {way: results_of(way) for way in FORWARD}
        jax.tree.map(assert_close, results["mesalens"], results["textbook"])
        if (textbook_torch := torch_textbook()) is None:
            return
        training = self.torch_training(False, textbook_torch)
        predictions, loss, gradient = training.results()
        assert_close(predictions, results["textbook"][0])
        assert_close(loss, results["textbook"][1])
        norm = np.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(results["textbook"][2])))
        assert_close(gradient, norm)


class Steps(Repeated):
    """Calls of a compiled loop of gradient steps."""

    def __init__(self, case: Case, way: str):
        started = time.perf_counter()
        loop = case.steps(way)
        seconds = time.perf_counter() - started
        super().__init__(lambda: loop(case.parameters), STEPS, compile_seconds=seconds)
        self.memory = limits.memory(loop.memory_analysis())


def measured(rounds: int) -> dict[str, Any]:
    """The numbers of all cases."""
    rows = []
    for name in CASES:
        limits.say(f"  {name}")
        case = Case(name, BATCHES[name])
        case.check()
        ways: dict[str, Any] = {way: Steps(case, way) for way in FORWARD}
        reasons = {}
        for compiled in (False, True):
            way = "PyTorch compiled" if compiled else "PyTorch"
            try:
                training = functools.partial(case.torch_training, compiled)
                ways[way] = PyTorch(training, compiled=compiled)
            except NotRunError as error:
                reasons[way] = {"not_run": str(error)}
        seconds = in_turns(ways, rounds)
        found = {way: described(made, seconds[way]) for way, made in ways.items()}
        sizes = {"batch_size": BATCHES[name], "seeds": 1}
        rows.append({"name": name, **sizes, "ways": found | reasons})
    return {"rows": rows}


PARTS = {"transformers": measured}
"""What measures each part, from the number of rounds."""
