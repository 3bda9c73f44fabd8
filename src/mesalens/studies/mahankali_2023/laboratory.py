"""The laboratory of the study: tasks solved, and layers trained on them, once and shared by all parts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.analysis import learned_preconditioner
from mesalens.models import LinearTransformer
from mesalens.tasks import (
    Cosines,
    Functions,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    RotatedPolynomials,
    TwoLayerNetworks,
)
from mesalens.theory import (
    ContextMoments,
    OptimalLsa,
    best_descent,
    best_rank_one_step,
    distances,
    layer_risks,
    optimal_lsa,
    task_moments,
)
from mesalens.training import Training, train
from mesalens.training._train import warn
from mesalens.training.checkpoint import report_rest

ProgressFactory = Callable[[str, int], Callable[[int], object]]


@dataclass(frozen=True)
class Budget:
    """How much is spent: steps of both kinds of training, the batch of the sampled one, seeds, prompts, sizes.

    `prompts` is for each simulated number and seed, `relative_error` for simulated moments. `dim` and `context_length` are the
    main size; `lengths`, `dims` and `noises` vary one at a time.
    """

    population_steps: int
    sampled_steps: int
    batch_size: int
    seeds: int
    prompts: int
    relative_error: float
    dim: int
    context_length: int
    lengths: tuple[int, ...]
    dims: tuple[int, ...]
    noises: tuple[float, ...]


BUDGETS = {
    "quick": Budget(2000, 1500, 512, 5, 20_000, 0.01, 5, 10, (3, 40), (1, 10), (0.5, 2.0)),
    # The paper proves and trains nothing: these are larger sizes, more steps and finer moments.
    "paper": Budget(
        5000, 10_000, 2048, 10, 1_000_000, 0.003, 10, 20, (1, 5, 80), (1, 5, 20), (0.1, 0.5, 2.0)
    ),
}


def isotropic_step_size(dim: int, context_length: int, noise_variance: float) -> float:
    """1/(n + d + 1 + σ²), the closed form of the paper's step size for x ~ N(0, I), w ~ N(0, I)."""
    return 1 / (context_length + dim + 1 + noise_variance)


def families(dim: int) -> dict[str, Functions]:
    """Rotation-invariant families with f and -f equally likely."""
    return {
        "relu networks": TwoLayerNetworks(dim, hidden=16, activation="relu"),
        "sines": Cosines(dim, frequency=2.0, phase=np.pi / 2),
        "cubic polynomials": RotatedPolynomials(dim),
    }


@dataclass(frozen=True)
class TrainedLayers:
    """Layers trained from several seeds on one task, and the moments of the task."""

    task: RegressionTask
    moments: ContextMoments
    training: Training

    @cached_property
    def optimum(self) -> OptimalLsa:
        """The optimal layer."""
        return optimal_lsa(self.task, self.moments)

    def risks(self) -> Float[np.ndarray, " seeds"]:
        """The risk of each layer, from the moments."""
        return layer_risks(self.training.learners, self.moments)

    def excess(self) -> xr.DataArray:
        """R / R_best - 1, for each seed: R_best is the risk of the optimal layer."""
        return xr.DataArray(self.risks() / self.optimum.risk - 1, dims="seed")

    def preconditioners(self) -> Float[np.ndarray, "seeds d d"]:
        """P of each layer."""
        seeds = self.training.metrics.sizes["seed"]
        return np.stack(
            [learned_preconditioner(self.training.learner(seed))[0] for seed in range(seeds)]
        )

    def difference(self) -> xr.DataArray:
        """(E(ŷ - ŷ')² / E ŷ²)^½ between the layer of each seed and that of the next."""
        layers = self.training.learners
        following = jax.tree.map(lambda leaf: np.roll(leaf, -1, axis=0), layers)
        return xr.DataArray(
            np.sqrt(np.maximum(distances(layers, following, self.moments), 0)), dims="seed"
        )

    @cached_property
    def saddle_risk(self) -> float:
        """The risk of the best step of rank one, near which layers can stop."""
        return best_rank_one_step(self.moments)[1]

    def trained(self) -> xr.DataArray:
        """Which seeds left the plateau: those whose risk is closer to that of the best step; all where the two are one (d = 1)."""
        best = best_descent(self.moments)[1]
        return xr.DataArray(
            (self.risks() < (best + self.saddle_risk) / 2) | (self.saddle_risk < best * (1 + 1e-9)),
            dims="seed",
        )

    def remark(self, name: str) -> str:
        """How many seeds did, in words."""
        trained = self.trained()
        return f"{int(trained.sum())} of {trained.size} layers trained on {name} left the plateau (docs/plateau.md); claims about them count these."


class Laboratory:
    """Solves tasks and trains layers where a part asks for them.

    In a folder `checkpoints` every training keeps its state, and goes on from it; another laboratory of the same settings takes it up.
    `step_size(d, n, σ²)`, `believed(Σ)` and `families(d)` are what the study puts to the test: the closed form of the best step, the
    covariance whose inverse is to precondition, and families said to be symmetric. Give others to see it fail.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        seeds: int | None = None,
        seed: int = 0,
        progress: ProgressFactory = lambda title, total: lambda done: None,
        say: Callable[[str], object] = warn,
        checkpoints: Path | None = None,
        step_size: Callable[[int, int, float], float] = isotropic_step_size,
        believed: Callable[[np.ndarray], np.ndarray] = lambda covariance: covariance,
        families: Callable[[int], Mapping[str, Functions]] = families,
    ):
        self.budget = budget
        self.seeds = budget.seeds if seeds is None else seeds
        self.seed = seed
        self.checkpoints = checkpoints
        self.step_size = step_size
        self.believed = believed
        self.families = families
        self._progress = progress
        self._say = say
        self._trained: dict[tuple[str, str], TrainedLayers] = {}

    def key(self, *place: int) -> Key[Array, ""]:
        """The key for a place in the study, so that parts run alone draw what they draw in the whole."""
        return random.measurement_key(self.seed, *place)

    def checkpoint(self, training: str) -> Path | None:
        """The folder where a training of that name keeps its state, or None where none does."""
        return (
            None
            if self.checkpoints is None
            else self.checkpoints / re.sub(r"[^\w.=²⁻¹]+", "-", training)
        )

    def describe(self) -> dict[str, Any]:
        """The settings in plain values, for the page."""
        return {
            name.replace("_", " "): value
            for name, value in asdict(self.budget).items()
            if name != "seeds"
        } | {
            "population training": "Adam on the exact gradient, rate 1e-2 falling to 0 as a cosine, float64",
            "sampled training": "Adam, rate 1e-2 falling to 0 as a cosine, fresh prompts, float32",
            "initial weights": "as in the code of von Oswald et al. (2023)",
        }

    def isotropic(
        self, dim: int | None = None, context_length: int | None = None, noise_variance: float = 0.0
    ) -> RegressionTask:
        """X ~ N(0, I), w ~ N(0, I), at the main size where none is given."""
        dim = self.budget.dim if dim is None else dim
        return RegressionTask(
            Gaussian(dim),
            LinearFunctions(dim),
            context_length=self.budget.context_length if context_length is None else context_length,
            noise=GaussianNoise(noise_variance),
        )

    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Σ with eigenvalues from 1/3 to 3 in a random frame; the study's seed draws the frame."""
        frame, _ = np.linalg.qr(
            np.random.default_rng(self.seed).normal(size=(self.budget.dim, self.budget.dim))
        )
        covariance = (frame * np.geomspace(1 / 3, 3, self.budget.dim)) @ frame.T
        return (covariance + covariance.T) / 2

    def population(self, name: str, task: RegressionTask) -> TrainedLayers:
        """Layers trained on the risk itself, without sampling noise."""
        return self._layers("population", name, task, self.budget.population_steps)

    def sampled(self, name: str, task: RegressionTask) -> TrainedLayers:
        """Layers trained on fresh prompts."""
        return self._layers("sampled", name, task, self.budget.sampled_steps)

    def _layers(self, objective, name: str, task: RegressionTask, steps: int) -> TrainedLayers:
        if (objective, name) not in self._trained:
            moments = task_moments(task, key=self.key(1), relative_error=self.budget.relative_error)
            title, checkpoint = (
                f"{objective} training: {name}, {self.seeds} seeds",
                self.checkpoint(f"{objective} {name}"),
            )
            training = train(
                lambda key: LinearTransformer.initialise(task.dim, task.outputs, key=key),
                task,
                optax.adam(optax.cosine_decay_schedule(1e-2, steps)),
                steps=steps,
                batch_size=self.budget.batch_size,
                seeds=self.seeds,
                key=random.key(self.seed),
                every=max(steps // 20, 1),
                objective=objective,
                progress=report_rest(self._progress, title, steps, checkpoint),
                say=self._say,
                checkpoint=checkpoint,
            ).require_finite()
            self._trained[objective, name] = TrainedLayers(task, moments, training)
        return self._trained[objective, name]


def by_setting(values: Mapping[str, xr.DataArray], dimension: str = "task") -> xr.DataArray:
    """Arrays over seeds, by setting, as one."""
    return xr.concat(
        list(values.values()), dim=xr.DataArray(list(values), dims=dimension, name=dimension)
    )


def identity_part(P: Float[np.ndarray, "*batch d d"]) -> Float[np.ndarray, " *batch"]:
    """tr(P)/d, the step size of P as a multiple of the identity."""
    return np.asarray(np.trace(P, axis1=-2, axis2=-1) / P.shape[-1])


def away(
    P: Float[np.ndarray, "*batch d d"], reference: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, " *batch"]:
    """‖P - P_ref‖_F / ‖P_ref‖_F."""
    return np.asarray(np.linalg.norm(P - reference, axis=(-2, -1)) / np.linalg.norm(reference))
