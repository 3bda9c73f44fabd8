"""`TrainingSettings`: a training as a value that can be written down and read back."""

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from jaxtyping import Array, Key

from mesalens import random
from mesalens.checks import InputError, one_of
from mesalens.kinds import Member, Settings, nested, overlay
from mesalens.learners import Learner
from mesalens.names import SHORT
from mesalens.tasks import CondensedTask, Task
from mesalens.training.problem import Measure
from mesalens.training.stopping.base import StoppingRule
from mesalens.training.training import Training


def _axes(vary: Any) -> Any:
    """What is varied, from words such as `learning_rate=1e-3,3e-3` or as it is."""
    if not isinstance(vary, list | tuple):
        return vary
    axes: dict[str, list[str]] = {}
    for words in vary:
        name, equal, values = str(words).partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equal or name in axes:
            raise InputError(f"{words!r} is not a setting with values, as learning_rate=1e-3,3e-3.")
        axes[name] = [value.strip() for value in values.split(",")]
    return axes


DEFAULT_TASK = {"kind": "regression", "covariates": {"kind": "uniform", "scale": 0.5}}
EMPTY: dict[str, tuple[Any, ...]] = {}


class TrainingSettings(Settings):
    """What is trained, on which task, and how.

    The defaults are the one-layer setting of von Oswald et al. (2023) as in their released code:
    d = n = 10, x ~ U[-1/2, 1/2]^d, w ~ N(0, I), no noise, Adam with b2 = 0.98 and rate 1e-3 on
    gradients clipped to norm 1e-3, 5000 steps, batches of 2048 fresh prompts. Nested settings that
    are given change these defaults, unless they are of another kind.
    """

    task: Annotated[Any, Member("task")] = DEFAULT_TASK
    """what prompts are drawn from"""
    model: Annotated[Any, Member("learner")] = "linear-transformer"
    """the learner that is trained"""
    objective: Annotated[Any, Member("objective")] = "sampled"
    """what is minimised"""
    optimiser: Annotated[Any, Member("optimiser")] = "adam"
    """how it is minimised"""
    stop: Annotated[Any, Member("stop")] = "never"
    """when a run ends before its last step"""
    steps: int = 5000
    """training steps"""
    batch_size: int = 2048
    """fresh prompts in a step"""
    microbatches: int = 1
    """equal parts of a batch, one after the other: less memory"""
    seeds: int = 1
    """independent runs"""
    seed: int = 0
    """where all random numbers come from"""
    every: int = 100
    """steps between two measurements"""
    generator: random.Generator | None = None
    """of random numbers: threefry, rbg or unsafe_rbg (the fastest on the device by default)"""
    vary: Annotated[dict[str, tuple[Any, ...]], pydantic.BeforeValidator(_axes)] = EMPTY
    """settings with several values: all combinations are trained"""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _change_defaults(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        defaults = {
            name: member.read(field.default).model_dump()
            for name, field in cls.model_fields.items()
            for member in field.metadata
            if isinstance(member, Member) and name in content
        }
        return {**content, **overlay(defaults, {name: content[name] for name in defaults})}

    def sampled_task(self) -> Task:
        """The task that prompts are drawn from; condensed if that is set."""
        return self.task.build()

    def exact_task(self) -> Any:
        """The task as theory reads it, not condensed."""
        task = self.sampled_task()
        return task.task if isinstance(task, CondensedTask) else task

    def initialise(self, key: Key[Array, ""]) -> Learner:
        """The learner before training."""
        task = self.sampled_task()
        return self.model.build(dim=task.dim, outputs=task.outputs, key=key)

    def stopping_rule(self) -> StoppingRule:
        """When a run ends; raises `ValueError` if that is not known for the task."""
        return self.stop.build(task=self.sampled_task())

    def key(self) -> Key[Array, ""]:
        """The key of all random numbers."""
        return random.key(self.seed, self.generator)

    def train(self, *, measure: Measure | None = None, **options: Any) -> Training:
        """Trains all combinations of `vary`, from every seed.

        Args:
            measure: As in `mesalens.training.train`.
            **options: `progress`, `say`, `checkpoint`, `batching` and `memory` of `train`; on a
                cluster `cluster`, `report` and `check` of `mesalens.training.sweeps.sweep`.
        """
        from mesalens.training.sweeps import sweep  # which needs these settings

        return sweep(self, measure=measure, **options)

    def value(self, path: str) -> Any:
        """The setting at a path, such as `task.noise.variance`; short forms are fine."""
        value: Any = self
        for name in full_path(path).split("."):
            known = type(value).model_fields if isinstance(value, Settings) else {}
            value = getattr(value, one_of("setting", name, known))
        return value

    def replaced(self, path: str, value: Any) -> "TrainingSettings":
        """The settings with another value at a path, checked."""
        self.value(path)
        changes = nested({full_path(path): value})
        return type(self).read(overlay(self.model_dump(), changes))

    def updated(self, path: str, value: Any) -> "TrainingSettings":
        """The settings with another value at a path as it is: it may be one that JAX traces."""
        return _updated(self, full_path(path).split("."), value)


def full_path(path: str) -> str:
    """The path of a setting, from a short form or as it is; hyphens are underscores."""
    path = path.strip().lstrip("-").replace("-", "_")
    return SHORT.get(path, path)


def _updated(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    inner = _updated(getattr(settings, name), rest, value) if rest else value
    return settings.model_copy(update={name: inner})
