"""Deep transformers of the study, trained, and the gradient descent and GD++ of the same depth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.analysis import alignment_at, expectation, interpolate, squared_error
from mesalens.learners import GradientDescent, Learner
from mesalens.models import LinearTransformer
from mesalens.prompt import Prompt
from mesalens.tasks import RegressionTask
from mesalens.theory import best_steps, gradient_descent_transformer, one_step_risk
from mesalens.training import Training, TrainingSettings, clipped_adam, train
from mesalens.training._train import warn
from mesalens.training.checkpoint import report_rest

MEASUREMENTS = 5
"""Points of a curve over training."""


@dataclass(frozen=True)
class DeepSettings:
    """What is trained, and for how long; `seeds` where the command line does not say, the paper's learning rate where none is given."""

    layers: int
    looped: bool
    steps: int
    batch_size: int
    seeds: int
    plus_plus_steps: int
    dim: int = 10
    context_length: int = 10
    outputs: int = 1
    learning_rate: float | None = None
    plus_plus_rate: float = 5e-4
    prompts_for_rates: int = 20_000
    prompts: int = 10_000

    @property
    def name(self) -> str:
        """In words, as figures and verdicts show it."""
        vectors = f", m = {self.outputs}" if self.outputs > 1 else ""
        return f"{self.layers} {'looped' if self.looped else 'unshared'} layers, d = {self.dim}, n = {self.context_length}{vectors}"

    def training(self, seeds: int, seed: int) -> TrainingSettings:
        """The paper's rules: rate 5e-4 and activations cut to ±10 above three layers, gradients cut to norm 10 above two.

        Source: the released code (constructed_token_setup.ipynb), which has them as conditions on the number of layers.
        """
        return TrainingSettings(
            task={"dim": self.dim, "context_length": self.context_length, "outputs": self.outputs},
            model={
                "layers": self.layers,
                "looped": self.looped,
                "activation_clip": 10.0 if self.layers > 3 else None,
            },
            optimiser={
                "learning_rate": self.learning_rate or (5e-4 if self.layers > 3 else 1e-3),
                "clip": 10.0 if self.layers > 2 else 1e-3,
            },
            steps=self.steps,
            batch_size=self.batch_size,
            every=-(-self.steps // MEASUREMENTS),
            seeds=seeds,
            seed=seed,
        )


@dataclass(frozen=True)
class DeepModels:
    """Transformers of every seed, the `references` of the same depth, "descent" and "plus_plus", and the latter's transformer.

    `descent` is plain GD with the best step sizes, `plus_plus` GD++ trained by the same call as the transformers, from that descent
    on; both with rates shared by all steps where the transformer is looped, and of each step where it is not.
    """

    name: str
    task: RegressionTask
    references: Mapping[str, GradientDescent]
    constructed: LinearTransformer
    reference_risks: Mapping[str, float]
    training: Training

    @property
    def seeds(self) -> int:
        """How many were trained."""
        return self.training.metrics.sizes["seed"]

    def after_training(self) -> xr.Dataset:
        """The last measurement of every seed."""
        return self.training.metrics.isel(step=-1, drop=True)

    def trained(self) -> xr.DataArray:
        """Which seeds left the plateau: those closer in risk to gradient descent than to predicting 0."""
        null = one_step_risk(self.task).null_risk
        return self.after_training().risk < (null + self.reference_risks["descent"]) / 2

    def shown(self) -> int:
        """The place of the seed that figures of a single transformer show: the first that left the plateau, if any did."""
        return int(self.trained().values.argmax())

    def for_each_seed(self, measure: Callable[[LinearTransformer, int], xr.Dataset]) -> xr.Dataset:
        """`measure(transformer, place)` of every seed, side by side."""
        return xr.concat(
            [measure(self.training.learner(place), place) for place in range(self.seeds)], "seed"
        )

    def remark(self) -> str:
        """What came out, in words."""
        risks = ", ".join(f"{risk:.4f}" for risk in self.after_training().risk.values)
        return (
            f"{self.name}: {int(self.trained().sum())} of {self.seeds} left the plateau; risk {risks}, where as many steps of gradient descent with "
            f"their best sizes have {self.reference_risks['descent']:.4f} and trained GD++ {self.reference_risks['plus_plus']:.4f}."
        )


def train_deep(
    settings: DeepSettings,
    *,
    seeds: int,
    seed: int,
    progress: Callable[[str, int], Callable[[int], object]],
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
) -> DeepModels:
    """Trains the references and the transformers, and measures these against those.

    Transformers keep their state in a folder `checkpoint`, GD++ in `plus-plus` below it.
    """
    of_transformers = settings.training(seeds, seed)
    task = of_transformers.exact_task()
    key = random.measurement_key(seed, 6, settings.layers, settings.dim)
    descent = best_steps(
        task, settings.layers, shared=settings.looped, key=key, prompts=settings.prompts_for_rates
    ).learner
    plus_plus = train_plus_plus(
        settings,
        task,
        descent,
        key,
        checkpoint=None if checkpoint is None else checkpoint / "plus-plus",
    )
    constructed = gradient_descent_transformer(
        plus_plus,
        dim=settings.dim,
        outputs=settings.outputs,
        context_length=settings.context_length,
    )
    references = {"descent": descent, "plus_plus": plus_plus}

    def measure(model: LinearTransformer, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
        return relative_to(
            references, model, interpolate(model, constructed), task, key, settings.prompts
        )

    report = report_rest(progress, f"{settings.name}, {seeds} seeds", settings.steps, checkpoint)
    training = of_transformers.train(
        measure=measure, progress=report, say=say, checkpoint=checkpoint
    )
    training.require_finite()
    last = training.metrics.isel(step=-1)
    risks = {name: float(last[f"{name}_risk"].mean()) for name in references}
    return DeepModels(settings.name, task, references, constructed, risks, training)


class _AsTransformer(Learner):
    """A descent whose batches go through its constructed transformer: the same predictions, several times sooner."""

    descent: GradientDescent
    context_length: int = eqx.field(static=True)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.descent(prompt)

    def batch(self, prompts: Prompt) -> Float[Array, "batch m"]:
        return gradient_descent_transformer(
            self.descent,
            dim=prompts.dim,
            outputs=prompts.outputs,
            context_length=self.context_length,
        ).batch(prompts)


def train_plus_plus(
    settings: DeepSettings,
    task: RegressionTask,
    descent: GradientDescent,
    key: Key[Array, ""],
    *,
    checkpoint: Path | None = None,
) -> GradientDescent:
    """GD++ trained from plain descent on; Adam's rate is that of η/n and γ/n, the numbers in a transformer's weights."""

    def start(_: Key[Array, ""]) -> _AsTransformer:
        plus_plus = GradientDescent(
            descent.step_size, settings.layers, data_correction=0 * descent.step_size
        )
        return _AsTransformer(plus_plus, settings.context_length)

    optimiser = clipped_adam(settings.plus_plus_rate * settings.context_length, clip=1e-3, b2=0.98)
    steps = settings.plus_plus_steps
    training = train(
        start,
        task,
        optimiser,
        steps=steps,
        batch_size=512,
        key=key,
        every=steps,
        checkpoint=checkpoint,
    )
    return training.require_finite().learner().descent


def relative_to(
    references: Mapping[str, GradientDescent],
    model: LinearTransformer,
    interpolated: LinearTransformer,
    task: RegressionTask,
    key: Key[Array, ""],
    prompts: int,
) -> dict[str, Float[Array, ""]]:
    """What the claims speak of, for each reference on the same prompts, its name in front.

    `…_risk_difference` is R / R_ref - 1, `…_prediction_difference` and `…_sensitivity_difference` are in units of the reference's mean
    length, `…_cosine` is that of the sensitivities.
    """

    def measures(prompt: Prompt, target: Float[Array, " m"]) -> dict[str, Any]:
        own = {
            "risk": squared_error(model, prompt, target),
            "mixed": squared_error(interpolated, prompt, target),
        }
        risks = {
            name: squared_error(reference, prompt, target) for name, reference in references.items()
        }
        return own | {
            "risks": risks,
            "alike": {
                name: alignment_at(model, reference, prompt)
                for name, reference in references.items()
            },
        }

    mean = jax.tree.map(
        lambda estimate: estimate.value,
        expectation(measures, task, key, prompts=prompts),
        is_leaf=lambda node: isinstance(node, eqx.Module),
    )
    measured = {
        "risk": mean["risk"],
        "interpolated_risk_difference": mean["mixed"] / mean["risks"]["plus_plus"] - 1,
    }
    for name in references:
        alike = mean["alike"][name]
        measured |= {
            f"{name}_risk": mean["risks"][name],
            f"{name}_risk_difference": mean["risk"] / mean["risks"][name] - 1,
            f"{name}_prediction_difference": alike["prediction_difference"]
            / alike["reference_prediction"],
            f"{name}_cosine": alike["sensitivity_cosine"],
            f"{name}_sensitivity_difference": alike["sensitivity_difference"]
            / alike["reference_sensitivity"],
        }
    return measured
