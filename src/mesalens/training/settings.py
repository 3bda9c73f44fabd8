"""`TrainingSettings`: one training run, as a value that can be written down and read back."""

from typing import Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from mesalens import random
from mesalens.checks import InputError, matrix
from mesalens.learners import Learner
from mesalens.models import Interleaved, Joint, LinearTransformer, Sinusoidal, Transformer
from mesalens.models.attention import Kernel, Keys
from mesalens.tasks import CondensedTask, RegressionTask, Task
from mesalens.tasks.matrix_file import Matrix
from mesalens.tasks.settings import CovariateName, TaskSettings
from mesalens.training.objective import Objective
from mesalens.training.optimiser import Schedule, clipped_adam, schedule
from mesalens.training.problem import Measure, Problem
from mesalens.training.stopping import Flat, NearOptimum, StoppingRule
from mesalens.training.train import train
from mesalens.training.training import Training

PARTS = (
    "attention",
    "tokens",
    "keys",
    "layer_norm",
    "mlp_widening",
    "biases",
    "embedding_size",
    "input_mlp_widening",
    "positions",
    "readout",
)
"""The settings that a linear transformer has at their defaults."""


class TrainingSettings(TaskSettings):
    """Which transformer is trained, on which task, and how.

    It is a `LinearTransformer` where all its parts, from `attention` to `readout`, are the defaults, else a `Transformer`.

    The defaults are the one-layer setting of von Oswald et al. (2023) as their released code has it: d = n = 10,
    x ~ U[-1/2, 1/2]^d, w ~ N(0, I), no noise, Adam with b2 = 0.98 and rate 1e-3 on gradients clipped to norm 1e-3, batches of 2048
    fresh prompts, 5000 steps.
    """

    covariates: CovariateName = "uniform"
    """distribution of the covariates"""
    scale: float = 0.5
    """scale of the covariates: uniform on [-scale, scale], Gaussian N(0, scale² Σ), …"""
    layers: int = 1
    """L, layers of self-attention"""
    heads: int = 1
    """H, heads of a layer"""
    looped: bool = False
    """one layer's weights serve all layers"""
    attention: Literal["linear", "softmax", "softmax-first"] = "linear"
    """linear or softmax attention in all layers, or softmax in the first and linear after"""
    tokens: Literal["joint", "interleaved"] = "joint"
    """x and y in one token, or in tokens of their own, one after the other"""
    keys: Keys = "context"
    """what a token sees: the context without the query, the tokens up to itself, or all"""
    layer_norm: bool = False
    """norms before attention and MLP"""
    mlp_widening: int | None = None
    """an MLP in each layer: its hidden units over the width of a token"""
    biases: bool = False
    """biases of attention and embedding"""
    embedding_size: int | None = None
    """width that tokens are projected to"""
    input_mlp_widening: int | None = None
    """an MLP before the first layer: its hidden units over the width of a token"""
    positions: int | None = None
    """size of the sinusoidal encodings that are put behind tokens"""
    readout: bool = False
    """a linear map of the query's token gives the prediction, not its y-part"""
    initial_weights: Matrix | None = None
    """W_0 of the query token, one row an output: a CSV or .npy file"""
    activation_clip: float | None = None
    """largest entry of a token after a layer"""
    init_scale: float = 0.002
    """initial variance of the weights, times layers and fan-in"""
    objective: Objective = "sampled"
    """what is made small: the risk on sampled batches, or the risk itself (one layer; no batches)"""
    steps: int = 5000
    """training steps"""
    batch_size: int = 2048
    """fresh prompts in a step"""
    condensed: bool = False
    """draw S itself, for Gaussian covariates and linear functions: the cost does not grow with the context"""
    learning_rate: float = 1e-3
    """Adam's rate"""
    schedule: Schedule = "constant"
    """the rate over the steps: constant, or down to 0 along half a cosine or a line"""
    warmup: int = 0
    """steps in which the rate first rises from 0"""
    b2: float = 0.98
    """Adam's decay of the second moment"""
    clip: float = 1e-3
    """largest norm of a gradient"""
    seeds: int = 1
    """independent runs, trained at once"""
    seed: int = 0
    """where all random numbers come from"""
    every: int = 100
    """steps between two measurements"""
    stop: Literal["never", "near-optimum", "flat"] = "never"
    """before the last step: when the risk is near the exact optimum (one layer), or the loss is flat"""
    tolerance: float = 0.01
    """how near, or how flat, as a share of the risk"""
    generator: random.Generator | None = None
    """of random numbers: threefry, or XLA's rbg or unsafe_rbg (the fastest on the device by default)"""

    def task(self) -> RegressionTask:
        """The task, as theory reads it; raises `ValueError` too where it is to be condensed and cannot be."""
        task = super().task()
        if self.condensed:
            CondensedTask(task)
        return task

    def sampled_task(self) -> Task:
        """The task that the sampled objective draws its prompts from: `task()`, or the same condensed."""
        return CondensedTask(self.task()) if self.condensed else self.task()

    def initialise(self, key: Key[Array, ""]) -> Learner:
        """The transformer before training; raises `ValueError` where W_0 is not m × d, or settings do not go together."""
        start = self.initial_weights
        if start is not None:
            start = jnp.asarray(matrix("W_0, the initial weights,", start, (self.outputs, self.dim)), jnp.float32)
        if parts := self.parts():
            self._require_fit(parts)
            return Transformer.initialise(
                self.dim,
                self.outputs,
                layers=self.layers,
                heads=self.heads,
                attention=self._kernels(),
                tokens=Joint(start) if self.tokens == "joint" else Interleaved(),
                keys=self.keys,
                looped=self.looped,
                layer_norm=self.layer_norm,
                mlp_widening=self.mlp_widening,
                biases=self.biases,
                embedding_size=self.embedding_size,
                input_mlp_widening=self.input_mlp_widening,
                positions=None if self.positions is None else Sinusoidal(self.positions),
                readout=self.readout,
                init_scale=self.init_scale,
                key=key,
            )
        return LinearTransformer.initialise(
            self.dim,
            self.outputs,
            layers=self.layers,
            heads=self.heads,
            looped=self.looped,
            init_scale=self.init_scale,
            initial_weights=start,
            activation_clip=self.activation_clip,
            key=key,
        )

    def parts(self) -> list[str]:
        """The settings by which this is no `LinearTransformer`; none where it is one."""
        fields = type(self).model_fields
        return [name for name in PARTS if getattr(self, name) != fields[name].default]

    def _kernels(self) -> Kernel | tuple[Kernel, ...]:
        if self.attention != "softmax-first":
            return self.attention
        after: tuple[Kernel, ...] = ("linear",) * (self.layers - 1)
        return ("softmax", *after)

    def _require_fit(self, parts: list[str]) -> None:
        """Raises where something else that is set is for other transformers than those with these parts."""
        for_linear = {
            "activation_clip": self.activation_clip is not None,
            "condensed": self.condensed,
            "the population objective": self.objective == "population",
        }
        for name, given in for_linear.items():
            if given:
                raise InputError(
                    f"{name} is for linear transformers, and this one has {', '.join(parts)} besides; leave out the one or the other."
                )
        if self.looped and self.attention == "softmax-first":
            raise InputError(
                "looped layers have one kind of attention; leave looped out, or give linear or softmax attention."
            )
        if self.initial_weights is not None and self.tokens == "interleaved":
            raise InputError("interleaved tokens hold no -W_0 x; leave initial_weights out, or give joint tokens.")

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        rate = schedule(self.schedule, self.learning_rate, steps=self.steps, warmup=self.warmup)
        return clipped_adam(rate, clip=self.clip, b2=self.b2)

    def stopping_rule(self) -> StoppingRule | None:
        """When a run ends before its last step; raises `ValueError` where the optimum is not known."""
        if self.stop == "near-optimum":
            if self.layers > 1 or self.parts():
                raise InputError(
                    "the optimum is known for one layer of linear self-attention without further parts; stop where the loss is flat."
                )
            return NearOptimum(self.task(), self.tolerance)
        return Flat(self.tolerance) if self.stop == "flat" else None

    def problem(self, measure: Measure | None = None) -> Problem:
        """What a run of these settings trains."""
        task = self.task() if self.objective == "population" else self.sampled_task()
        return Problem(self.initialise, task, self.optimiser(), measure)

    def train(self, *, measure: Measure | None = None, **options: Any) -> Training:
        """Runs it; the other options are those of `mesalens.training.train`."""
        initialise, task, optimiser, _ = self.problem()
        return train(initialise, task, optimiser, measure=measure, **self.shared(), **options)

    def shared(self) -> dict[str, Any]:
        """What `train` and `sweep` take by name."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "seeds": self.seeds,
            "key": random.key(self.seed, self.generator),
            "every": self.every,
            "objective": self.objective,
            "stop": self.stopping_rule(),
            "description": self.model_dump(exclude={"steps", "seeds", "seed", "generator"}),
        }
