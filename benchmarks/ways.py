"""mesalens and the textbook ways as trainings that take turns in one process, and the check that
all do the same.
"""

import dataclasses
import functools
import importlib
import importlib.util
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import textbook
from limits import bytes_accessed, largest_memory, live_programs, memory, operations

from mesalens import LinearTransformer, Prompt, random
from mesalens.models import Factors
from mesalens.tasks import Task
from mesalens.training import SquaredError, TrainingSettings

BLOCK_SECONDS = 0.3
"""About how long a way trains in a round."""
MOST_BYTES, MOST_SECONDS = 4e9, 6.0
"""The textbook way is left out where its step needs more memory or time."""
WRITTEN_OUT = 5
"""More layers than this may be a loop, of which XLA counts one pass."""


class Cell(NamedTuple):
    """What is trained: L unshared layers with one head, m = 1, the optimiser and batch of
    `TrainingSettings`; activations are clipped to ± `clip` where it is given.

    Examples are drawn from x ~ U[-1/2, 1/2]^d, or, where S is drawn itself, from Gaussian inputs of
    such a scale that S is as large at every n.
    """

    layers: int = 1
    context_length: int = 10
    dim: int = 10
    seeds: int = 1
    batch_size: int = 2048
    drawn: bool = False
    clip: float | None = None

    def settings(self, **more: Any) -> TrainingSettings:
        """The training as mesalens has it."""
        task: dict[str, Any] = {"dim": self.dim, "context_length": self.context_length}
        if self.drawn:
            scale = (10 / self.context_length) ** 0.5
            task |= {"covariates": {"kind": "gaussian", "scale": scale}, "condensed": True}
        else:
            task["covariates"] = {"kind": "uniform", "scale": 0.5}  # those of textbook.py
        return TrainingSettings(
            task=task,
            model={"layers": self.layers, "activation_clip": self.clip},
            optimiser={"learning_rate": textbook.LEARNING_RATE},
            seeds=self.seeds,
            batch_size=self.batch_size,
            **more,
        )

    def __str__(self):
        sizes = f"L = {self.layers}, n = {self.context_length:,}"
        sizes += "" if self.dim == 10 else f", d = {self.dim}"
        sizes += f", batch {self.batch_size:,}"
        sizes += "" if self.seeds == 1 else f", {self.seeds} seeds"
        sizes += ", S drawn" if self.drawn else ""
        return sizes + ("" if self.clip is None else f", cut at ±{self.clip:g}")


class Cost(NamedTuple):
    """What one step of one seed takes.

    `flops` are those of the program as it is written (what the compiler computes twice counts
    once), `bytes_accessed` those of the compiled program, with what fused operations hand to each
    other. `bytes_needed` are what has to move even so where a batch is larger than the caches:
    weights and Adam's moments read and written once, prompts and targets written when they are
    drawn and read forwards and backwards. (A program that keeps prompts in registers needs less.)
    """

    flops: float
    bytes_accessed: float
    bytes_needed: float


def cost_of(cell: Cell) -> Cost:
    """What a step of one seed takes. It is compiled alone, since a loop over steps would count as
    one pass, and not run.
    """
    if cell.layers > WRITTEN_OUT:  # all layers but the first and the last cost the same
        fewer, few = (
            np.array(cost_of(cell._replace(layers=WRITTEN_OUT - less))) for less in (1, 0)
        )
        return Cost(*(few + (cell.layers - WRITTEN_OUT) * (few - fewer)).tolist())
    settings = cell.settings()
    task = settings.sampled_task()
    loss_of_batch = SquaredError().loss(task, cell.batch_size)
    optimiser = settings.optimiser.build().transformation(settings.steps)

    def start():
        learner = settings.initialise(jax.random.key(0))
        return learner, optimiser.init(eqx.filter(learner, eqx.is_array))

    def step(weights, key):
        learner, optimiser_state = weights
        loss, gradients = jax.value_and_grad(loss_of_batch)(learner, key)
        updates, optimiser_state = optimiser.update(gradients, optimiser_state)
        return (eqx.apply_updates(learner, updates), optimiser_state), loss

    weights, key = jax.eval_shape(start), random.key(0)
    prompts = jax.eval_shape(lambda key: task.sample(key, (cell.batch_size,)), key)
    lowered = jax.jit(step).lower(weights, key)
    return Cost(
        operations(lowered),
        bytes_accessed(lowered.compile(compiler_options=quickly())),
        2 * size_in_bytes(weights) + 3 * size_in_bytes(prompts),
    )


def quickly() -> dict[str, Any]:
    """Options to compile what is not timed: the same operations, fused alike, with less work on the
    machine code of CPUs.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def size_in_bytes(shapes) -> float:
    """Bytes of a pytree of shapes."""
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)))


class TakesTurns(Protocol):
    """Something that goes on when it is asked to."""

    def block(self) -> float:
        """Seconds a step, over a block of steps."""
        ...


class Mesalens:
    """`TrainingSettings.train()`, what users call, with what it does between its compiled chunks. A
    block is a chunk.

    It runs in a thread of its own, which waits in the callback after a chunk until the next is
    asked for: after the one that compiles, `blocks` of so many steps.
    """

    def __init__(self, cell: Cell, steps: int, blocks: int):
        self.steps, self._taken, self._last = steps, 0, (blocks + 1) * steps
        self._asked, self._done = queue.SimpleQueue(), queue.SimpleQueue()
        self._seconds: list[float] = []
        settings = cell.settings(steps=self._last, every=steps)
        threading.Thread(target=self._train, args=(settings,), daemon=True).start()
        before = live_programs()
        self._first = self._chunk()
        self.memory = largest_memory(live_programs() - before)
        """bytes of the largest program that it has compiled"""

    def block(self) -> float:
        """Seconds a step, over a block of steps."""
        self._seconds.append(self._chunk())
        return self._seconds[-1] / self.steps

    def compile_seconds(self) -> float:
        """The first chunk, with all that comes before it, less the median of the later ones."""
        return self._first - float(np.median(self._seconds))

    def _chunk(self) -> float:
        started = time.perf_counter()
        self._asked.put(None)
        if (error := self._done.get()) is not None:
            raise error
        return self._reached - started

    def _train(self, settings: TrainingSettings) -> None:
        self._asked.get()
        try:
            settings.train(progress=self._after_chunk)
        except BaseException as error:  # for the thread that waits
            self._done.put(error)
        else:
            ended = self._taken == self._last
            self._done.put(
                None if ended else RuntimeError(f"the training ended after {self._taken} steps")
            )

    def _after_chunk(self, done: int) -> None:
        self._reached, self._taken = time.perf_counter(), done
        if done < self._last:  # what comes after the last chunk is done before the others go on
            self._done.put(None)
            self._asked.get()


class NotRunError(Exception):
    """A way is not run; the message says why."""


class Textbook:
    """The textbook way in JAX, whose seeds are trained one after the other: one is run, and its
    time taken that many times.
    """

    def __init__(self, cell: Cell):
        started = time.perf_counter()
        step, self._state = textbook.training(
            cell.layers, cell.context_length, cell.dim, cell.batch_size, cell.clip
        )
        self._compile_seconds = time.perf_counter() - started
        self._step, self._seeds = step, cell.seeds
        self.memory = memory(step.memory_analysis())
        if self.memory > MOST_BYTES:
            raise NotRunError(f"not run: would need {self.memory / 1e9:.1f} GB")
        self.steps = 1
        self.block()
        self.steps = steps_in_a_block(self.block() / cell.seeds)

    def block(self) -> float:
        """Seconds a step, over a block of steps."""
        started = time.perf_counter()
        for _ in range(self.steps):
            self._state = self._step(self._state)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - started) / self.steps * self._seeds

    def compile_seconds(self) -> float:
        """Initial weights, tracing, lowering and compiling its step."""
        return self._compile_seconds


class PyTorch:
    """The textbook way in PyTorch: whatever has a `step`, after two that load and compile it.

    Raises:
        NotRunError: if PyTorch is not installed, it cannot compile, or a step takes too long.
    """

    def __init__(self, training: Callable[[Any], Any], *, compiled: bool = False):
        if (textbook_torch := torch_textbook()) is None:
            raise NotRunError("not run: PyTorch is not installed")
        if jax.default_backend() != "cpu":  # blocks do not wait for a device
            raise NotRunError("not run: PyTorch is measured on CPUs alone")
        started = time.perf_counter()
        made = training(textbook_torch)
        try:
            made.step()
        except Exception as error:  # whatever is missing, such as a C++ compiler
            if not compiled:
                raise
            raise NotRunError(f"not available: {str(error).splitlines()[0]}") from error
        self._compile_seconds = time.perf_counter() - started
        self._step, self.steps = made.step, 1
        self.steps = steps_in_a_block(self.block())
        # Compiled code decides for itself what to keep
        self.memory = None if compiled else textbook_torch.bytes_for_backward(made.step)

    def block(self) -> float:
        """Seconds a step, over a block of steps."""
        started = time.perf_counter()
        for _ in range(self.steps):
            self._step()
        return (time.perf_counter() - started) / self.steps

    def compile_seconds(self) -> float:
        """The first step, with all that comes before it."""
        return self._compile_seconds


class Repeated:
    """A compiled call that is made again and again, and counts as so many steps. The first call
    compiles it, unless it is said how long that took.
    """

    memory: int | None = None

    def __init__(
        self, call: Callable[[], Any], steps: int = 1, *, compile_seconds: float | None = None
    ):
        self._call, self._of_call, self.steps = call, steps, 1
        started = time.perf_counter()
        self.block()
        first = time.perf_counter() - started
        self._compile_seconds = first if compile_seconds is None else compile_seconds
        self.steps = max(1, steps_in_a_block(self.block()) // steps)

    def block(self) -> float:
        """Seconds a step, over a block of calls."""
        started = time.perf_counter()
        result = None
        for _ in range(self.steps):
            result = self._call()
        jax.block_until_ready(result)
        return (time.perf_counter() - started) / self.steps / self._of_call

    def compile_seconds(self) -> float:
        """Tracing, lowering and compiling."""
        return self._compile_seconds


def drawing(cell: Cell) -> Repeated:
    """A batch of prompts of mesalens, drawn and written to memory."""
    task, key = cell.settings().sampled_task(), random.key(0)
    started = time.perf_counter()
    draw = jax.jit(lambda key: task.sample(key, (cell.batch_size,))).lower(key).compile()
    return Repeated(lambda: draw(key), compile_seconds=time.perf_counter() - started)


def steps_in_a_block(seconds: float) -> int:
    """How many steps of so many seconds are a block.

    Raises:
        NotRunError: if one takes too long.
    """
    if seconds > MOST_SECONDS:
        raise NotRunError(f"not run: {seconds:.1f} s a step")
    return int(np.clip(BLOCK_SECONDS / seconds, 1, 1000))


def described(way: Any, seconds: np.ndarray) -> dict[str, Any]:
    """The numbers of a way, as JSON values."""
    return {
        "seconds": seconds.tolist(),
        "steps": way.steps,
        "compile_seconds": way.compile_seconds(),
        "memory": way.memory,
    }


def in_turns(ways: Mapping[Any, TakesTurns], rounds: int) -> dict[Any, np.ndarray]:
    """Seconds a step of each way, one value a round: in every round each takes a block of steps.
    One round before them does not count.
    """
    seconds = [[way.block() for way in ways.values()] for _ in range(rounds + 1)][1:]
    return dict(zip(ways, np.array(seconds).T, strict=True))


class GivenPrompts(Task):
    """One batch of the textbook's prompts, for mesalens' loss."""

    tokens: jax.Array
    targets: jax.Array

    @property
    def dim(self) -> int:
        """The number d of entries of a covariate."""
        return self.tokens.shape[-1] - 1

    @property
    def outputs(self) -> int:
        """The number m of entries of a label."""
        return 1

    @property
    def context_length(self) -> int:
        """The number n of examples."""
        return self.tokens.shape[-2] - 1

    def sample(self, key, shape=()):
        """Always the first prompts of that batch."""
        number, rows = math.prod(shape), self.tokens.shape[1:]
        tokens = self.tokens[:number].reshape(*shape, *rows)
        context, query = tokens[..., :-1, :], tokens[..., -1, :]
        prompts = Prompt(context[..., :-1], context[..., -1:], query[..., :-1])
        return prompts, self.targets[:number].reshape(*shape, 1)


FACTORS = {"Q": "W_Q", "K": "W_K", "V": "W_V", "P": "P"}


def as_transformer(weights) -> LinearTransformer:
    """The textbook's weights in mesalens' model."""
    stacked = {name: jnp.stack([layer[name] for layer in weights])[:, None] for name in "QKVP"}
    factors = Factors(stacked["Q"], stacked["K"], stacked["V"], stacked["P"])
    return LinearTransformer(factors, layers=len(weights))


def weights_to_compare(cell: Cell):
    """Weights so large that every layer matters, and so small that none explodes."""
    scale = 0.1 * (10 / cell.context_length) ** 0.25 * (11 / (cell.dim + 1)) ** 0.5
    return textbook.initial_weights(2, cell.layers, cell.dim, scale)


def check_same_work(cell: Cell, transformer: LinearTransformer | None = None) -> None:
    """Raises `AssertionError` unless all ways compute the same from the same weights and prompts:
    predictions, loss and gradients.

    Where activations are clipped, the limit is first that of the cell, which few entries reach, and
    then one that many reach.

    `transformer` is what is compared with the textbook, the same weights where it is not given.
    """
    weights, key = weights_to_compare(cell), jax.random.key(3)
    batch_size = 32
    draw = jax.jit(textbook.draw_batch, static_argnums=(1, 2, 3), compiler_options=quickly())
    batch = draw(key, cell.context_length, cell.dim, batch_size)
    for clip in {cell.clip, None if cell.clip is None else 0.3}:
        expected = textbook_results(weights, batch, clip)
        given = transformer or as_transformer(weights)
        given = dataclasses.replace(given, activation_clip=clip)
        jax.tree.map(assert_close, mesalens_results(given, batch), expected)
        if (textbook_torch := torch_textbook()) is not None:
            found = textbook_torch.results(weights, *batch, clip)
            jax.tree.map(assert_close, found, expected)


Results = tuple[Any, Any, Any]
"""Predictions, loss and gradients; the gradients as a list of dictionaries, one a layer."""


def textbook_results(weights, batch, clip: float | None) -> Results:
    """Those of the textbook."""

    @functools.partial(jax.jit, compiler_options=quickly())
    def results(weights, tokens, targets):
        predictions = jax.vmap(textbook.prediction, (None, 0, None))(weights, tokens, clip)
        loss = functools.partial(textbook.mean_loss, clip=clip)
        return predictions, *jax.value_and_grad(loss)(weights, tokens, targets)

    return results(weights, *batch)


def mesalens_results(transformer: LinearTransformer, batch) -> Results:
    """Those of mesalens' batched model and objective."""

    @functools.partial(jax.jit, compiler_options=quickly())
    def results(transformer, tokens, targets):
        task, key = GivenPrompts(tokens, targets), jax.random.key(0)
        loss = SquaredError().loss(task, len(targets))
        prompts, _ = task.sample(key, targets.shape)
        predictions = transformer.batch(prompts)[:, 0]
        return predictions, *jax.value_and_grad(loss)(transformer, key)

    predictions, loss, gradient = results(transformer, *batch)
    matrices = {name: getattr(gradient.weights, field)[:, 0] for name, field in FACTORS.items()}
    layers = range(transformer.layers)
    return predictions, loss, [{name: matrices[name][n] for name in matrices} for n in layers]


def torch_textbook() -> Any:
    """The module `textbook_torch`; None if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    return importlib.import_module("textbook_torch")


def assert_close(ours, theirs) -> None:
    """Finite, and equal up to the rounding of float32; small entries relative to the largest."""
    np.testing.assert_allclose(
        ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(), equal_nan=False
    )
