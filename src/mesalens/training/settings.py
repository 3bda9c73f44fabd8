"""`TrainingSettings`: one training run, as a value that can be written down and read back."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from mesalens import random
from mesalens.checks import matrix
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.tasks import CondensedTask, RegressionTask, Task
from mesalens.tasks.matrix_file import Matrix
from mesalens.tasks.settings import CovariateName, TaskSettings
from mesalens.training.objective import Objective
from mesalens.training.optimiser import clipped_adam
from mesalens.training.train import Measure, Training, train


class TrainingSettings(TaskSettings):
    """Which linear transformer is trained, on which task, and how.

    The defaults are the one-layer setting of von Oswald et al. (2023) as their released code has it: d = n = 10,
    x ~ U[-1/2, 1/2]^d, w ~ N(0, I), no noise, Adam with b2 = 0.98 and rate 1e-3 on gradients clipped to norm 1e-3, batches of 2048
    fresh prompts, 5000 steps.
    """

    covariates: CovariateName = "uniform"
    """distribution of the covariates"""
    scale: float = 0.5
    """scale of the covariates: uniform on [-scale, scale], Gaussian N(0, scale² Σ), …"""
    layers: int = 1
    """L, layers of linear self-attention"""
    heads: int = 1
    """H, heads of a layer"""
    looped: bool = False
    """one layer's weights serve all layers"""
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
        """The transformer before training; raises `ValueError` where W_0 is not m × d."""
        start = self.initial_weights
        if start is not None:
            start = jnp.asarray(matrix("W_0, the initial weights,", start, (self.outputs, self.dim)), jnp.float32)
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

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        return clipped_adam(self.learning_rate, clip=self.clip, b2=self.b2)

    def train(
        self,
        *,
        measure: Measure | None = None,
        progress: Callable[[int], object] | None = None,
        checkpoint: Path | None = None,
    ) -> Training:
        """Runs it; see `mesalens.training.train`."""
        return train(
            self.initialise,
            self.task() if self.objective == "population" else self.sampled_task(),
            self.optimiser(),
            steps=self.steps,
            batch_size=self.batch_size,
            seeds=self.seeds,
            key=random.key(self.seed),
            every=self.every,
            objective=self.objective,
            measure=measure,
            progress=progress,
            checkpoint=checkpoint,
        )
