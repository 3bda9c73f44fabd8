"""`TrainingSettings`: one training run, as a value that can be written down and read back."""

from collections.abc import Callable
from typing import Literal

import optax
from jaxtyping import Array, Key
from pydantic import BaseModel, ConfigDict

from mesalens import random, tasks
from mesalens.checks import InputError
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.training.optimiser import clipped_adam
from mesalens.training.train import Measure, Training, train

Matrix = tuple[tuple[float, ...], ...]


class TrainingSettings(BaseModel):
    """Which linear transformer is trained, on which task, and how.

    The defaults are the one-layer setting of von Oswald et al. (2023) as their released code has it: d = n = 10,
    x ~ U[-1/2, 1/2]^d, w ~ N(0, I), no noise, Adam with b2 = 0.98 and rate 1e-3 on gradients clipped to norm 1e-3, batches of 2048
    fresh prompts, 5000 steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = 10
    """d, entries of a covariate"""
    context_length: int = 10
    """n, labelled examples in a prompt"""
    outputs: int = 1
    """m, entries of a label"""
    covariates: Literal["uniform", "gaussian", "exponential", "laplace"] = "uniform"
    """distribution of the covariates"""
    scale: float = 0.5
    """scale of the covariates: uniform on [-scale, scale], Gaussian N(0, scale² Σ), …"""
    covariate_covariance: Matrix | None = None
    """Σ of Gaussian covariates: a CSV or .npy file"""
    weight_covariance: Matrix | None = None
    """Λ, the prior covariance of the weights: a CSV or .npy file"""
    noise_variance: float = 0.0
    """variance of the label noise"""
    distractors: int = 0
    """context labels replaced by noise N(0, 1)"""
    layers: int = 1
    """L, layers of linear self-attention"""
    heads: int = 1
    """H, heads of a layer"""
    looped: bool = False
    """one layer's weights serve all layers"""
    init_scale: float = 0.002
    """initial variance of the weights, times layers and fan-in"""
    steps: int = 5000
    """training steps"""
    batch_size: int = 2048
    """fresh prompts in a step"""
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

    def task(self) -> tasks.RegressionTask:
        """The task; raises `ValueError` for values that make none."""
        families = {
            "uniform": tasks.Uniform,
            "gaussian": tasks.Gaussian,
            "exponential": tasks.Exponential,
            "laplace": tasks.Laplace,
        }
        own = {}
        if self.covariate_covariance is not None:
            if self.covariates != "gaussian":
                raise InputError(
                    f"{self.covariates} covariates have no covariance of their own; leave it out, or choose gaussian."
                )
            own["covariance"] = self.covariate_covariance
        return tasks.RegressionTask(
            families[self.covariates](self.dim, self.scale, **own),
            tasks.LinearFunctions(self.dim, self.outputs, covariance=self.weight_covariance),
            context_length=self.context_length,
            noise=tasks.GaussianNoise(self.noise_variance),
            distractors=tasks.Distractors(self.distractors),
        )

    def initialise(self, key: Key[Array, ""]) -> Learner:
        """The transformer before training."""
        return LinearTransformer.initialise(
            self.dim,
            self.outputs,
            layers=self.layers,
            heads=self.heads,
            looped=self.looped,
            init_scale=self.init_scale,
            key=key,
        )

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        return clipped_adam(self.learning_rate, clip=self.clip, b2=self.b2)

    def train(self, *, measure: Measure | None = None, progress: Callable[[int], object] | None = None) -> Training:
        """Runs it; see `mesalens.training.train`."""
        return train(
            self.initialise,
            self.task(),
            self.optimiser(),
            steps=self.steps,
            batch_size=self.batch_size,
            seeds=self.seeds,
            key=random.key(self.seed),
            every=self.every,
            measure=measure,
            progress=progress,
        )
