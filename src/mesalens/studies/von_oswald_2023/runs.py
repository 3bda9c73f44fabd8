"""How the models beyond linear attention are trained in the study, and how each seed is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis import alignment_at, expectation, squared_error
from mesalens.learners import AnyLearner, Learner
from mesalens.tasks import Task
from mesalens.training import Training, clipped_adam


@dataclass(frozen=True)
class Run:
    """What is spent on the training of one kind of model; `seeds` where the command line does not say.

    With `decays` the rate falls to 0 along half a cosine. `init_scale` is the variance of the first weights, times layers and fan-in;
    `measurements` are points of a curve over training, `prompts` are drawn for each of them.
    """

    steps: int
    batch_size: int
    seeds: int
    learning_rate: float = 1e-3
    decays: bool = False
    microbatches: int = 1
    clip: float = 10.0
    dim: int = 10
    context_length: int = 10
    init_scale: float = 0.002
    measurements: int = 20
    prompts: int = 10_000

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        return -(-self.steps // self.measurements)

    def optimiser(self) -> optax.GradientTransformation:
        """Adam with b2 = 0.98 on clipped gradients."""
        rate = (
            optax.cosine_decay_schedule(self.learning_rate, self.steps)
            if self.decays
            else self.learning_rate
        )
        return clipped_adam(rate, clip=self.clip, b2=0.98)

    def words(self, seeds: int) -> str:
        """What is done, for the page."""
        return (
            f"d = {self.dim}, n = {self.context_length}, {self.steps} steps on batches of {self.batch_size}, Adam's rate {self.learning_rate:g}"
            f"{' that falls to 0' * self.decays}, "
            f"gradients cut to norm {self.clip:g}, initial scale {self.init_scale:g}, {seeds} seeds"
        )


def for_each_seed(
    training: Training, measure: Callable[..., Mapping[str, Any]], key: Key[Array, ""]
) -> dict[str, xr.DataArray]:
    """`measure(learner, key)` for the learner of every seed, each with a key of its own; scalars gain the dimension seed."""
    seeds = training.metrics.seed.values
    keys = jax.random.split(key, len(seeds))
    values = eqx.filter_jit(eqx.filter_vmap(measure))(training.learners, keys)
    return {
        name: xr.DataArray(np.asarray(value), {"seed": seeds}, ("seed",))
        for name, value in values.items()
    }


def beside(
    learner: AnyLearner, reference: AnyLearner, task: Task, key: Key[Array, ""], prompts: int
) -> dict[str, Float[Array, ""]]:
    """A learner and a reference on the same prompts: their risks, R / R_ref - 1, and the measures of `alignment_at`, lengths in units of the
    reference's mean length.
    """
    mean = {
        name: estimate.value
        for name, estimate in expectation(
            lambda prompt, target: {
                "risk": squared_error(learner, prompt, target),
                "reference_risk": squared_error(reference, prompt, target),
                **alignment_at(learner, reference, prompt),
            },
            task,
            key,
            prompts=prompts,
        ).items()
    }
    return {
        "risk": mean["risk"],
        "reference_risk": mean["reference_risk"],
        "risk_difference": mean["risk"] / mean["reference_risk"] - 1,
        "prediction_difference": mean["prediction_difference"] / mean["reference_prediction"],
        "cosine": mean["sensitivity_cosine"],
        "sensitivity_difference": mean["sensitivity_difference"] / mean["reference_sensitivity"],
    }


def furthest(
    model: Learner, reference: Learner, task: Task, key: Key[Array, ""], seeds: int
) -> xr.DataArray:
    """The greatest |ŷ - ŷ_ref| over 200 prompts, in units of the root mean square of ŷ_ref, on prompts of every seed."""

    def on_prompts(key):
        prompts, _ = task.sample(key, (200,))
        expected = jax.vmap(reference)(prompts)
        return abs(jax.vmap(model)(prompts) - expected).max() / (expected**2).mean() ** 0.5

    return xr.DataArray(
        np.asarray(jax.jit(jax.vmap(on_prompts))(jax.random.split(key, seeds))), dims="seed"
    )


def share_of_gain(risk: xr.DataArray, null_risk: float, reference_risk: float) -> xr.DataArray:
    """(R_0 - R) / (R_0 - R_ref): 0 is the risk R_0 of predicting 0, 1 that of the reference."""
    return (null_risk - risk) / (null_risk - reference_risk)


def risk_over_training(axes, metrics: xr.Dataset, *, color: str, label: str) -> None:
    """The measured risk of every seed, one thin line each."""
    for place, line in enumerate(metrics.risk):
        axes.plot(
            metrics.step,
            line,
            color=color,
            alpha=0.6,
            linewidth=1,
            label=label if place == 0 else None,
        )
