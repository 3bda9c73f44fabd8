"""Whether mesalens computes what the released code of von Oswald et al. (2023) computes, and how
fast both are.

    python benchmarks/original.py --original PATH [--output FILE] [--rounds N]

PATH is a checkout of https://github.com/google-research/self-organising-systems. The packages that
the code imports have to be installed: absl-py, dm-haiku, ml_collections and pytz.

- Predictions: the same weights and prompts in both, in float32 and float64. Weights are random,
  and so large that every layer matters.
- Training: `update` of the code and `mesalens.train`, from the weights of `init`, on the prompts
  that mesalens draws; losses and weights after 1, 10 and 100 steps. Initial weights are larger than
  in the notebooks, where a hundred steps hardly change the loss.
- Speed: training steps as the notebooks call them, beside `mesalens.train`, in turns.

Tolerances were fixed before anything was compared. Both sides add the same products in another
order. A sum of some hundred rounded terms is off by some ten roundings, terms may be some times
larger than their sum, and layers add up: a prediction may differ by 64 ε for each layer, relative
to the largest one, with ε = 2^-23 or 2^-52. In training, the gradient is a mean over B prompts
whose terms cancel down to a 1/√B of their size, and Adam divides each entry by its own size, so
that small entries count with their own relative error: 640 ε √B for each layer.

A comparison has to be able to fail: predictions are compared again with one weight of mesalens 1%
larger, and the first training with a learning rate 1% larger, which has to be beyond the tolerance.

The exit code is 1 if anything differs, and 2 if the code is not there.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from page import spread
from released_code import (
    FOLDER,
    SOURCE,
    Configuration,
    NotTheCodeError,
    ReleasedCode,
    copying,
    linear,
    sine,
)
from ways import BLOCK_SECONDS, Mesalens, in_turns, quickly

from mesalens import GradientDescent, LinearTransformer, Prompt, random, theory, train
from mesalens.environment import environment
from mesalens.learners.base import predict_batch
from mesalens.models import Joint
from mesalens.tasks import LinearFunctions, RegressionTask, SineWaves, Task, Uniform
from mesalens.training import TrainingSettings

COMMAND = "python benchmarks/original.py --original PATH --output docs/pages/agreement.md"
PROMPTS, BATCH = 256, 64
"""Prompts whose predictions are compared, and those of a training step that is compared."""
STEPS = (1, 10, 100)
DTYPES = ("float32", "float64")
STARTED = time.perf_counter()
LARGER = 1.01
"""What a weight, or the learning rate, is multiplied by to see whether a comparison can fail."""

PREDICTIONS: tuple[Configuration, ...] = (
    linear(),
    linear(dim=20),
    linear(dim=5, context_length=20),
    linear(context_length=200),
    linear(2),
    linear(2, "unshared"),
    linear(2, "unshared", heads=2),
    linear(2, dim=5, context_length=20),
    linear(5),
    linear(5, cut=0.0),
    linear(5, "unshared"),
    linear(5, "unshared", cut=0.0),
    linear(5, "unshared", cut=1.0),
    linear(5, "unshared", dim=20, cut=0.0),
    linear(5, "unshared", dim=40, cut=0.0),
    linear(5, "unshared", context_length=200),
    linear(5, "unshared", context_length=200, cut=0.0),
    linear(12),
    linear(12, "unshared"),
    linear(12, "unshared", cut=0.0),
    linear(use_softmax=True).but("one layer, softmax"),
    linear(heads=2, use_softmax=True).but("one layer, softmax, 2 heads"),
    linear(layer_norm=True).but("one layer behind layer norm"),
    linear(2, layer_norm=True, att_only_trans=False).but("2 layers, looped, layer norm and MLP"),
    copying(),
    sine(),
)
TRAININGS: tuple[Configuration, ...] = (
    linear(),
    linear(context_length=200),
    linear(2),
    linear(2, "unshared"),
    linear(5),
    linear(5, "unshared", cut=0.0),
    linear(5, "unshared", cut=1.0),
    linear(12, "unshared"),
    linear(heads=2, use_softmax=True).but("one layer, softmax, 2 heads"),
    copying(),
    sine(),
)

IN_DOUBLE = (0, 3, 6, 9, 10)
"""The trainings that are compared in float64 as well, as each takes seconds to compile."""


class Row(NamedTuple):
    """Differences of one comparison, relative to the size of what is compared, and what they may
    be.

    `broken` is the least difference of the same comparison with something changed.
    """

    name: str
    dim: int
    context_length: int
    dtype: str
    differences: tuple[float, ...]
    tolerance: float
    broken: float | None = None

    def verdict(self) -> str:
        """Whether both agree; "blind" if a change would not be noticed."""
        if not all(difference <= self.tolerance for difference in self.differences):  # nor NaN
            return "differs"
        if self.broken is not None and not self.broken > self.tolerance:
            return "blind"
        return "agrees"


class Speed(NamedTuple):
    """Milliseconds a step of both, and their ratio, over rounds."""

    name: str
    dim: int
    context_length: int
    batch_size: int
    theirs: str
    ours: str
    ratio: str


class SpeedCase(NamedTuple):
    """A training that is timed; `model` is what mesalens trains."""

    configuration: Configuration
    batch_size: int
    model: dict[str, Any]
    steps: int = 0
    every: int = 0

    def settings(self, *, steps: int, every: int) -> "SpeedCase":
        """What `Mesalens` calls `train` of."""
        return self._replace(steps=steps, every=every)

    def train(self, progress: Callable[[int], object]) -> None:
        """The training in mesalens."""
        settings = self.training_settings()
        train(
            settings.initialise,
            settings.sampled_task(),
            settings.optimiser.build(),
            steps=self.steps,
            batch_size=self.batch_size,
            every=self.every,
            key=settings.key(),
            progress=progress,
        )

    def training_settings(self) -> TrainingSettings:
        """Task, model and optimiser as mesalens has them."""
        configuration = self.configuration
        waves = configuration.settings["task"] == "sine"
        task = {
            "dim": configuration.dim,
            "context_length": configuration.context_length,
            "covariates": {"kind": "uniform", "scale": 5.0 if waves else 0.5},
            "functions": {"kind": "sine" if waves else "linear"},
        }
        optimiser = {
            "learning_rate": configuration.settings["lr"],
            "clip": 2 * configuration.settings["grad_clip_value"],
            "epsilon": 2e-8,
        }
        given: dict[str, Any] = {"task": task, "model": self.model, "optimiser": optimiser}
        return TrainingSettings(**given)


def speed_of_linear(
    layers: int, batch_size: int = 2048, *, cut: float = 0.0, **sizes: int
) -> SpeedCase:
    """Unshared layers of linear attention; activations are cut only where this is asked for."""
    configuration = linear(layers, "unshared", cut=cut, **sizes)
    model = {"layers": layers, "activation_clip": configuration.settings["clip"] or None}
    return SpeedCase(configuration, batch_size, model)


SPEEDS: tuple[SpeedCase, ...] = (
    speed_of_linear(1),
    speed_of_linear(2),
    speed_of_linear(5),
    speed_of_linear(5, cut=10.0),
    speed_of_linear(12, cut=10.0),
    speed_of_linear(1, 256, context_length=200),
    speed_of_linear(5, 256, context_length=200),
    speed_of_linear(5, 256, context_length=200, cut=10.0),
    speed_of_linear(5, 256, dim=20),
    SpeedCase(
        copying(),
        2048,
        {
            "kind": "transformer",
            "layers": 2,
            "first_attention": "softmax",
            "attention": "linear",
            "tokens": "interleaved",
            "positions": {"kind": "sinusoidal", "entries": 10},
        },
    ),
    SpeedCase(
        sine(),
        2048,
        {
            "kind": "transformer",
            "attention": "linear",
            "embedding_size": 40,
            "input_mlp_widening": 4,
        },
    ),
)


class Recorded(Task):
    """A task that hands every batch that it draws to `record`, in compiled programs too."""

    task: Task
    record: Callable[..., None] = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.task.dim

    @property
    def outputs(self) -> int:
        return self.task.outputs

    @property
    def context_length(self) -> int:
        return self.task.context_length

    def sample(self, key, shape=()):
        prompts, targets = self.task.sample(key, shape)
        jax.debug.callback(self.record, prompts, targets)
        return prompts, targets


class Theirs:
    """Training steps of the code, called as in the notebooks."""

    def __init__(self, code: ReleasedCode, case: SpeedCase):
        self._code = code
        code.configure(case.configuration.settings | {"bs": case.batch_size})
        self._optimiser, self._state = code.start(code.draw(jax.random.PRNGKey(1)))
        _, self._key = jax.random.split(code.key)
        self.steps = 1
        self.block()  # compiles
        self.steps = int(np.clip(BLOCK_SECONDS / min(self.block() for _ in range(2)), 1, 1000))

    def block(self) -> float:
        """Seconds a step, over a block of steps."""
        started = time.perf_counter()
        for _ in range(self.steps):
            key, self._key = jax.random.split(self._key)
            data = self._code.draw(key)
            self._state, _ = self._code.train.update(self._state, data, self._optimiser)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - started) / self.steps


def regression_of(configuration: Configuration) -> RegressionTask:
    """The task of a configuration in mesalens."""
    if configuration.settings["task"] == "sine":
        return RegressionTask(Uniform(1, 5.0), SineWaves(1), context_length=10)
    dim, length = configuration.dim, configuration.context_length
    return RegressionTask(Uniform(dim, 0.5), LinearFunctions(dim), context_length=length)


def rounding(dtype: str) -> float:
    """What one layer may add to the relative difference of predictions."""
    return 64 * float(np.finfo(dtype).eps)


def tolerance_of_training(dtype: str, depth: int) -> float:
    """What losses and weights may differ by."""
    return 10 * rounding(dtype) * depth * BATCH**0.5


def scale_of(configuration: Configuration) -> float:
    """A variance of weights, times fan-in, with which every layer matters and none explodes."""
    return 0.25 * (10 / configuration.context_length) ** 0.5 / configuration.depth**0.25


def relative(ours: Any, theirs: Any) -> float:
    """The largest difference relative to the largest entry of the second; NaN stays NaN."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def apart(ours: Sequence[Any], theirs: Sequence[Any], start: Sequence[Any]) -> float:
    """The Euclidean distance of weights, relative to that of `theirs` from the start."""

    def distance(one: Sequence[Any], other: Sequence[Any]) -> float:
        pairs = zip(one, other, strict=True)
        return float(sum(np.sum((np.float64(a) - np.float64(b)) ** 2) for a, b in pairs)) ** 0.5

    return distance(ours, theirs) / distance(theirs, start)


def changed(learner: Any) -> Any:
    """The learner with one weight larger: the one with the largest size among those of the last
    layer that write what predictions are read from.
    """
    is_linear = isinstance(learner, LinearTransformer)

    def where(learner: Any) -> Any:
        return learner.weights.P if is_linear else learner.stored_layers[-1].attention.P

    P = where(learner)
    rows = np.abs(np.asarray(P))
    last = rows[-1, :, -1] if is_linear else rows[:, -1]
    entry = np.unravel_index(last.argmax(), last.shape)
    entry = (*((-1,) if is_linear else ()), entry[0], -1, entry[1])
    return eqx.tree_at(where, learner, P.at[entry].multiply(LARGER))


@eqx.filter_jit(compiler_options=quickly())  # pyright: ignore[reportCallIssue]
def predicted(learner: Any, prompts: Prompt) -> jax.Array:
    """The predictions of mesalens for a batch."""
    return predict_batch(learner, prompts)


def drawn(task: Task, dtype: str, seed: int) -> tuple[Prompt, jax.Array]:
    """A batch of prompts and targets."""
    prompts, targets = task.sample(random.key(seed), (PROMPTS,))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (prompts, targets))


def predictions(code: ReleasedCode, configuration: Configuration, dtype: str, seed: int) -> Row:
    """Compares predictions from the same weights."""
    code.configure(configuration.settings)
    data = code.data(*(batch := drawn(regression_of(configuration), dtype, seed)))
    parameters = code.random_weights(seed, data, scale_of(configuration))
    theirs, learner = code.predictions(parameters, data[0]), code.learner(parameters)
    ours, broken = (predicted(each, batch[0]) for each in (learner, changed(learner)))
    assert ours.dtype == theirs.dtype == dtype, (ours.dtype, theirs.dtype)
    sizes = configuration.dim, configuration.context_length, dtype
    tolerance = rounding(dtype) * configuration.depth
    return Row(
        configuration.name, *sizes, (relative(ours, theirs),), tolerance, relative(broken, theirs)
    )


def constructions(code: ReleasedCode, dtype: str) -> list[Row]:
    """Compares the weights of `create_weights` with those of mesalens, and with the descent."""
    rows = []
    for steps, plus_plus in ((1, False), (5, False), (5, True)):
        configuration = linear(steps, cut=0.0)
        task = regression_of(configuration)
        batch, _ = drawn(task, dtype, 3)
        rate, n = 5.0, task.context_length
        start = jnp.zeros((1, 1, task.dim), dtype)
        correction = jnp.asarray(rate / n, dtype) if plus_plus else None
        descent = GradientDescent(rate, steps, data_correction=correction)
        name = f"GD{'++' if plus_plus else ''}, {steps} step{'s' if steps > 1 else ''}"
        rows += compare_descent(code, configuration, name, batch, descent, start, rate, plus_plus)
    # The sizes of the last cells of the notebook, with fewer steps
    dim, outputs, n, steps = 12, 8, 45, 20
    configuration = linear(steps, dim=dim, context_length=n, cut=0.0, key_size=dim + outputs)
    task = RegressionTask(Uniform(dim, 1.0), LinearFunctions(dim, outputs), context_length=n)
    batch, _ = drawn(task, dtype, 4)
    start = jax.random.normal(jax.random.key(5), (1, outputs, dim), dtype)
    descent = GradientDescent(1.0, steps, initial_weights=start[0])
    name = f"GD, {steps} steps from a random W_0, m = {outputs}"
    return rows + compare_descent(code, configuration, name, batch, descent, start, 1.0, False)


def compare_descent(
    code: ReleasedCode,
    configuration: Configuration,
    name: str,
    prompts: Prompt,
    descent: GradientDescent,
    start: jax.Array,
    rate: float,
    plus_plus: bool,
) -> list[Row]:
    """Rows for the transformer that is a descent, and for the descent itself."""
    code.configure(configuration.settings)
    sizes: dict[str, int] = {"dim": prompts.dim, "context_length": prompts.xs.shape[1]}
    sizes["outputs"] = outputs = prompts.outputs
    parameters = code.data_module.create_weights(
        prompts.dim,
        outputs,
        sizes["context_length"],
        rate,
        start,
        lin_diag=plus_plus,
        gd_deq=True,
        num_layers=descent.steps,
    )
    tokens = jax.vmap(Joint(start[0]))(prompts)
    theirs = code.predictions(parameters, tokens, descent=True, outputs=outputs)
    ours = theory.gradient_descent_transformer(descent, **sizes)
    broken = eqx.tree_at(lambda d: d.step_size, descent, LARGER * jnp.asarray(descent.step_size))
    pairs = {
        f"{name}, as a transformer": (ours, changed(ours)),
        f"{name}, as a learner": (descent, broken),
    }
    dtype, rows = str(theirs.dtype), []
    for words, pair in pairs.items():
        found = [relative(predicted(each, prompts), theirs) for each in pair]
        sized = words, prompts.dim, sizes["context_length"], dtype
        rows.append(Row(*sized, (found[0],), rounding(dtype) * descent.steps, found[1]))
    return rows


def training(code: ReleasedCode, configuration: Configuration, dtype: str) -> Row:
    """Compares losses and weights step by step, from the same start on the same prompts."""
    code.configure(configuration.settings | {"bs": BATCH, "init_scale": scale_of(configuration)})
    task = regression_of(configuration)
    optimiser, state = code.start(code.data(*drawn(task, dtype, 0)))
    before = code.learner(state.params)
    start = weights_of(before)
    losses, weights, batches = trained(before, task, code.optimiser())
    broken, found = None, list[float]()
    for step, batch in enumerate(batches, 1):
        data = code.data(*batch)
        state, metrics = code.train.update(state, data, optimiser)
        if step not in STEPS:
            continue
        theirs = weights_of(code.learner(state.params))
        assert theirs[0].dtype == dtype == weights[step][0].dtype
        # mesalens reports the whole squared error, and the code half of it
        found += [
            abs(losses[step] / 2 / float(metrics["train_loss"]) - 1),
            apart(weights[step], theirs, start),
        ]
        if step == STEPS[0] and configuration == TRAININGS[0]:
            faster = code.optimiser(learning_rate=LARGER * code.config.lr)
            broken = apart(trained(before, task, faster, steps=step)[1][step], theirs, start)
    return Row(
        configuration.name,
        configuration.dim,
        configuration.context_length,
        dtype,
        tuple(found),
        tolerance_of_training(dtype, configuration.depth),
        broken,
    )


def trained(
    learner: Any, task: Task, optimiser: Any, steps: int = STEPS[-1]
) -> tuple[np.ndarray, list[Any], list[Any]]:
    """The loss and the weights of mesalens after each step, with index 0 for the start, and the
    batches of the steps.
    """
    weights: list[Any] = []
    batches: list[Any] = []

    def record(prompts, targets):
        if targets.shape == (BATCH, 1):  # and not a few prompts that are drawn to check the task
            batches.append((prompts, targets))

    def measure(learner, key):
        jax.debug.callback(lambda *leaves: weights.append(leaves), *weights_of(learner))
        return {"seen": jnp.zeros(())}  # a program without results would not run

    run = train(
        lambda key: learner,
        Recorded(task, record),
        optimiser,
        steps=steps,
        batch_size=BATCH,
        every=1,
        # In float64, the default generator takes a minute to compile
        key=random.key(6, "rbg"),
        measure=measure,
    )
    jax.effects_barrier()
    assert len(batches) == steps and len(weights) == steps + 1
    return run.metrics.loss.values[0], weights, batches


def weights_of(learner: Any) -> list[Any]:
    """The arrays that training changes."""
    return jax.tree.leaves(eqx.filter(learner, learner.trainable()))


def speed(code: ReleasedCode, case: SpeedCase, rounds: int) -> Speed:
    """Times both in turns."""
    theirs = Theirs(code, case)
    # As long a block as theirs if mesalens is ten times as fast
    ours: Any = Mesalens(case, int(np.clip(10 * theirs.steps, 20, 1000)), rounds + 1)  # pyright: ignore[reportArgumentType]
    seconds = in_turns({"theirs": theirs, "ours": ours}, rounds)
    configuration = case.configuration
    return Speed(
        configuration.name,
        configuration.dim,
        configuration.context_length,
        case.batch_size,
        spread(1e3 * seconds["theirs"]),
        spread(1e3 * seconds["ours"]),
        spread(seconds["theirs"] / seconds["ours"]),
    )


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def small(number: float) -> str:
    """Two digits of a difference."""
    return f"{number:.1e}"


def agreement_table(rows: Sequence[Row], heads: Sequence[str]) -> str:
    """One line a comparison, with both precisions where both were compared."""
    lines = []
    for row in rows:
        numbers = [small(each) for each in row.differences]
        broken = "" if row.broken is None else small(row.broken)
        sizes = [str(row.dim), str(row.context_length), row.dtype]
        lines.append([row.name, *sizes, *numbers, small(row.tolerance), broken, row.verdict()])
    tail = ["tolerance", "if changed", "verdict"]
    return markdown(["", "d", "n", "precision", *heads, *tail], lines)


def speed_table(rows: Sequence[Speed]) -> str:
    """One line a training."""
    lines = [
        [
            row.name,
            str(row.dim),
            str(row.context_length),
            f"{row.batch_size:,}",
            row.theirs,
            row.ours,
            row.ratio,
        ]
        for row in rows
    ]
    heads = ["", "d", "n", "batch", "released code, ms/step", "mesalens, ms/step", "ratio"]
    return markdown(heads, lines)


def page(
    commit: str,
    compared: Sequence[Row],
    trainings: Sequence[Row],
    speeds: Sequence[Speed],
    rounds: int,
) -> str:
    """The page of the site."""
    rows = [*compared, *trainings]
    failed = [row for row in rows if row.verdict() != "agrees"]
    words = (
        f"All {len(rows)} comparisons agree."
        if not failed
        else f"**{len(failed)} of {len(rows)} comparisons fail**: "
        + "; ".join(f"{row.name}, {row.dtype}: {row.verdict()}" for row in failed)
        + "."
    )
    about = "; ".join(f"{name} {value}" for name, value in environment().items() if value)
    heads = [f"{what}, {step}" for step in STEPS for what in ("loss", "weights")]
    return PAGE.format(
        source=SOURCE,
        folder=FOLDER,
        commit=commit,
        command=COMMAND,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        about=about,
        words=words,
        prompts=PROMPTS,
        batch=BATCH,
        root=round(BATCH**0.5),
        predictions=agreement_table(compared, ["difference"]),
        trainings=agreement_table(trainings, heads),
        speeds=speed_table(speeds) if speeds else "Not measured in this run.",
        rounds=rounds,
    )


PAGE = """\
# Agreement with the released code

von Oswald et al. (2023) released their [code]({source}/tree/{commit}/{folder}) (JAX and Haiku).
`benchmarks/original.py` imports it from a checkout, and compares it with mesalens: predictions from
the same weights, training step by step from the same start, and the time of a step. Nothing of the
code is part of mesalens. This page is the output of

```console
$ {command}
```

on {date}, with commit `{commit}` of the code, under {about}.

{words}

## Predictions from the same weights

{prompts} prompts. *Difference* is the largest difference of two predictions, relative to the
largest prediction. Weights are random, and so large that every layer matters. Rows *GD* have the
weights of the code's `create_weights` on one side, and on the other those of
[`gradient_descent_transformer`][mesalens.theory.gradient_descent_transformer], or the descent
itself.

Both sides add the same products in another order. The tolerance is 64 ε for each layer (an MLP
counts as one), with ε = 2⁻²³ or 2⁻⁵²: a sum of some hundred rounded terms is off by some ten
roundings, and terms may be some times larger than their sum. It was fixed before anything was
compared. *If changed* is the difference when one weight of mesalens (of a learner, the step size)
is 1% larger; it has to be beyond the tolerance, or else the row is *blind*.

{predictions}

## Training, step by step

The code's `init` and `update`, and `mesalens.train`, from the same initial weights on the same
fresh batches of {batch} prompts. Initial weights are larger than in the notebooks, where a hundred
steps hardly change the loss. *Loss, k* is the relative difference of the loss of step k, and
*weights, k* the distance of the weights after k steps, relative to the distance that they have gone
since the start. The optimiser is that of the code (Adam with b2 = 0.98 on clipped gradients).
The code takes gradients of half of the squared error, and mesalens of all of it, so that limits of
gradients and Adam's ε are twice as large in mesalens, and its loss is halved here.

The tolerance is 640 ε √B for each layer, √B = {root}: the gradient is a mean over B prompts whose
terms cancel down to a 1/√B of their size, and Adam divides each entry by its own size, so that
small entries count with their own relative error. *If changed* is the distance after one step when
the learning rate of mesalens is 1% larger, in the first training. Five of the trainings are
compared in float64 as well.

{trainings}

## Speed

A training step as the notebooks call it (keys, prompts and `update` from Python), beside
`mesalens.train`, with unshared layers, float32 and the optimiser of the notebooks.
Both take turns in one process. Medians [least..greatest] over {rounds} rounds; ratios (released
code over mesalens) are taken round by round.

{speeds}

For *copying* mesalens has the model of its study, whose rows have 11 + 10 entries instead of
10 + 10; for *sine* the distributions are not quite the same (see below).

## What is different

- `jnp.DeviceArray`, which the code names in annotations, is gone from JAX; the benchmark puts
  `jax.Array` in its place. Its `init` is handed a batch instead of drawing one. Nothing else of the
  code is changed.
- *Copying*: the code appends the positional encoding to the token and reads the prediction from the
  last entry of the row, which is one of the encoding's, not of the token's. mesalens reads it from
  the entry of the label. The rows above compare the code's model, which mesalens can express with
  tokens and a readout of one's own.
- *Sine waves*: the code draws amplitude and phase from the same key, so that the amplitude
  determines the phase. In mesalens they are independent. The comparisons above use mesalens'
  prompts.
- *Layer norm*: in unshared layers the code has none before the first layer; in mesalens every layer
  has one. Looped layers are alike.
"""


def say(words: str) -> None:
    """What is being computed, apart from the results."""
    print(f"{time.perf_counter() - STARTED:.0f} s: {words}", file=sys.stderr, flush=True)


def agreement(code: ReleasedCode) -> tuple[list[Row], list[Row]]:
    """All comparisons, a precision at a time."""
    compared: list[Row] = []
    trainings: list[Row] = []
    for dtype in DTYPES:
        jax.config.update("jax_enable_x64", dtype == "float64")
        for number, configuration in enumerate(PREDICTIONS):
            say(f"predictions, {dtype}: {configuration.name}")
            compared.append(predictions(code, configuration, dtype, 100 + number))
        compared += constructions(code, dtype)
        for number, configuration in enumerate(TRAININGS):
            if dtype == "float32" or number in IN_DOUBLE:
                say(f"training, {dtype}: {configuration.name}")
                trainings.append(training(code, configuration, dtype))
    jax.config.update("jax_enable_x64", False)
    return compared, trainings


def main() -> int:
    """Compares, and prints or writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--output", type=Path, help="write the page to this file")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timings; 0 for none")
    options = parser.parse_args()
    if options.original is None:
        parser.exit(2, f"Give --original, a checkout of {SOURCE}.\n")
    try:
        code = ReleasedCode(options.original)
    except NotTheCodeError as error:
        parser.exit(2, f"{error}\n")
    compared, trainings = agreement(code)
    speeds = []
    for case in SPEEDS if options.rounds > 0 else ():
        say(f"speed: {case.configuration.name}, n = {case.configuration.context_length}")
        speeds.append(speed(code, case, options.rounds))
    text = page(code.commit, compared, trainings, speeds, options.rounds)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return int(any(row.verdict() != "agrees" for row in (*compared, *trainings)))


if __name__ == "__main__":
    sys.exit(main())
