"""Settings of the tasks that are put together from factors."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from mesalens.checks import InputError
from mesalens.kinds import KindSettings, Member
from mesalens.tasks.base import Task
from mesalens.tasks.classification import ClassificationTask
from mesalens.tasks.condensed import CondensedTask
from mesalens.tasks.distractors import Distractors
from mesalens.tasks.mixture import Mixture
from mesalens.tasks.regression import RegressionTask


class FactoredSettings(KindSettings):
    """Settings that all tasks of covariates and functions share."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    dim: int = 10
    """d, entries of a covariate"""
    context_length: int = 10
    """n, labelled examples in a prompt"""
    outputs: int = 1
    """m, entries of a label, or the number of classes"""
    covariates: Annotated[Any, Member("covariates")] = "gaussian"
    """distribution of the covariates"""
    functions: Annotated[Any, Member("functions")] = "linear"
    """family of functions"""

    def factors(self) -> tuple[Any, Any]:
        """The covariates and the functions."""
        functions = self.functions.build(dim=self.dim, outputs=self.outputs)
        return self.covariates.build(dim=self.dim), functions


class RegressionSettings(FactoredSettings):
    """Settings of a [`RegressionTask`][mesalens.tasks.RegressionTask], condensed or not."""

    kind: Literal["regression"] = "regression"
    noise: Annotated[Any, Member("noise")] = "gaussian"
    """label noise"""
    distractors: int = 0
    """context labels replaced by N(0, 1)"""
    condensed: bool = False
    """draw S itself, for Gaussian covariates and noise and linear functions"""

    def build(self, **context: Any) -> Task:
        """The task.

        Args:
            **context: Not used.

        Raises:
            ValueError: If the settings do not give a valid task.
        """
        task = RegressionTask(
            *self.factors(),
            context_length=self.context_length,
            noise=self.noise.build(dim=self.dim),
            distractors=Distractors(self.distractors),
        )
        return CondensedTask(task) if self.condensed else task


class ClassificationSettings(FactoredSettings):
    """Settings of a [`ClassificationTask`][mesalens.tasks.ClassificationTask].

    The values of the functions are the logits of the classes.
    """

    kind: Literal["classification"] = "classification"
    outputs: int = 2
    temperature: float = 0.0
    """temperature of the softmax that draws the classes; at 0 the largest logit gives the class"""

    def build(self, **context: Any) -> Task:
        """The task.

        Args:
            **context: Not used.

        Raises:
            ValueError: If the settings do not give a valid task.
        """
        sizes = {"context_length": self.context_length, "temperature": self.temperature}
        return ClassificationTask(*self.factors(), **sizes)


def _components(value: Any) -> Any:
    """Components from a JSON file, or as they are."""
    if not isinstance(value, str | Path):
        return value
    try:
        return json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{value} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise InputError(f"{value} is not JSON; give a list of tasks with probabilities.") from None


class MixtureSettings(KindSettings):
    """Settings of a [`Mixture`][mesalens.tasks.Mixture].

    Each component has the settings of a task and, optionally, its `probability`.
    """

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    kind: Literal["mixture"] = "mixture"
    components: Annotated[tuple[dict[str, Any], ...], pydantic.BeforeValidator(_components)]
    """tasks, or a JSON file with a list of them: [{"probability": 0.5, "dim": 5, …}, …]"""

    def build(self, **context: Any) -> Task:
        """The task.

        Args:
            **context: Not used.

        Raises:
            ValueError: If the settings do not give a valid task.
        """
        given = [each.get("probability") for each in self.components]
        tasks = [{n: v for n, v in each.items() if n != "probability"} for each in self.components]
        if None in given and any(each is not None for each in given):
            raise InputError("components must all have a probability, or none of them.")
        shares: Any = None if None in given else given
        return Mixture(tuple(Member("task").read(each).build() for each in tasks), shares)
