"""`TrainingSettings`: a training as a value that can be saved and read back."""

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
    """`vary`, from words such as `learning_rate=1e-3,3e-3`; a mapping is returned unchanged."""
    if not isinstance(vary, list | tuple):
        return vary
    axes: dict[str, list[str]] = {}
    for words in vary:
        name, equal, values = str(words).partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equal or name in axes:
            raise InputError(
                f"vary must be like learning_rate=1e-3,3e-3, each setting once; got {words!r}."
            )
        axes[name] = [value.strip() for value in values.split(",")]
    return axes


EMPTY: dict[str, tuple[Any, ...]] = {}


class TrainingSettings(Settings):
    """A training as settings: task, model, objective, optimiser, stopping rule and sizes.

    The default task is that of all commands: d = n = 10, x ~ N(0, I), w ~ N(0, I), no noise. The
    optimiser is that of von Oswald et al. (2023) in their released code: Adam with b2 = 0.98 and
    learning rate 1e-3 on gradients clipped to norm 1e-3, 5000 steps, batches of 2048 fresh prompts.
    Each part is given by its name, or by a mapping of `kind` and parameters. Parameters change the
    defaults of that part; a different `kind` replaces them.

    Examples:
        >>> from mesalens.training import TrainingSettings
        >>> settings = TrainingSettings(task={"dim": 2}, steps=20, batch_size=16, every=10)
        >>> run = settings.train()
        >>> run.metrics.loss.dims
        ('seed', 'step')
    """

    task: Annotated[Any, Member("task")] = "regression"
    """distribution of prompts"""
    model: Annotated[Any, Member("learner")] = "linear-transformer"
    """learner to train"""
    objective: Annotated[Any, Member("objective")] = "sampled"
    """what to minimise: sampled (squared error on fresh prompts), population (the exact risk),
    cross-entropy, or fixed-prompts (squared error on one set of prompts)"""
    optimiser: Annotated[Any, Member("optimiser")] = "adam"
    """optimiser"""
    stop: Annotated[Any, Member("stop")] = "never"
    """when to stop a run before its last step"""
    steps: int = 5000
    """number of training steps"""
    batch_size: int = 2048
    """number of fresh prompts in a step"""
    microbatches: int = 1
    """number of equal parts into which a batch is split to save memory"""
    seeds: int = 1
    """number of independent runs"""
    seed: int = 0
    """seed of all random numbers"""
    every: int = 100
    """number of steps between measurements"""
    generator: random.Generator | None = None
    """random generator: threefry, rbg or unsafe_rbg; by default the fastest on the device"""
    vary: Annotated[dict[str, tuple[Any, ...]], pydantic.BeforeValidator(_axes)] = EMPTY
    """settings with several values, as NAME=VALUE,VALUE; all combinations are trained"""

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
        """The task from which prompts are drawn; it is condensed if the settings say so."""
        return self.task.build()

    def exact_task(self) -> Any:
        """The task for `mesalens.theory`; it is never condensed."""
        task = self.sampled_task()
        return task.task if isinstance(task, CondensedTask) else task

    def initialise(self, key: Key[Array, ""]) -> Learner:
        """The learner before training.

        Args:
            key: A random key.
        """
        task = self.sampled_task()
        return self.model.build(dim=task.dim, outputs=task.outputs, key=key)

    def stopping_rule(self) -> StoppingRule:
        """The stopping rule.

        Raises:
            ValueError: if it is not defined for the task.
        """
        return self.stop.build(task=self.sampled_task())

    def key(self) -> Key[Array, ""]:
        """The key of all random numbers."""
        return random.key(self.seed, self.generator)

    def train(self, *, measure: Measure | None = None, **options: Any) -> Training:
        """Trains all combinations of `vary`, for every seed.

        Args:
            measure: As in `mesalens.training.train`.
            **options: `progress`, `say`, `checkpoint`, `batching` and `memory`, as in
                `mesalens.training.train`; or `cluster` (see `mesalens.execution.connected`) with
                `report` (called with the `State` of the work), `check` (which may raise an
                exception to stop the work), `say` and `checkpoint`.

        Raises:
            ValueError: if settings are invalid, or the combinations cannot be trained together.
        """
        from mesalens.training.sweeps import sweep  # which needs these settings

        return sweep(self, measure=measure, **options)

    def value(self, path: str) -> Any:
        """The setting at a path.

        Args:
            path: A path such as `task.noise.variance`, or a short name such as `noise_variance`.

        Raises:
            ValueError: if there is no such setting.
        """
        value: Any = self
        for name in full_path(path).split("."):
            known = type(value).model_fields if isinstance(value, Settings) else {}
            value = getattr(value, one_of("setting", name, known))
        return value

    def replaced(self, path: str, value: Any) -> "TrainingSettings":
        """The settings with another value at a path.

        Args:
            path: A path such as `task.noise.variance`, or a short name such as `noise_variance`.
            value: The value, which is checked.

        Raises:
            ValueError: if there is no such setting, or the value is invalid.
        """
        self.value(path)
        changes = nested({full_path(path): value})
        return type(self).read(overlay(self.model_dump(), changes))

    def updated(self, path: str, value: Any) -> "TrainingSettings":
        """The settings with another value at a path, which is not checked.

        Args:
            path: A path such as `task.noise.variance`, or a short name such as `noise_variance`.
            value: The value, which JAX may trace.
        """
        return _updated(self, full_path(path).split("."), value)


def full_path(path: str) -> str:
    """The path of a setting, from a path or a short name; hyphens become underscores."""
    path = path.strip().lstrip("-").replace("-", "_")
    return SHORT.get(path, path)


def _updated(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    inner = _updated(getattr(settings, name), rest, value) if rest else value
    return settings.model_copy(update={name: inner})
