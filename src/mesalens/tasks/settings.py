"""Settings of the tasks that are put together from factors."""

from typing import Annotated, Any, Literal

import pydantic

from mesalens.kinds import KindSettings, Member
from mesalens.tasks.base import Task
from mesalens.tasks.classification import ClassificationTask
from mesalens.tasks.condensed import CondensedTask
from mesalens.tasks.distractors import Distractors
from mesalens.tasks.regression import RegressionTask


class FactoredSettings(KindSettings):
    """What tasks of covariates × functions share."""

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
    """Settings of a `RegressionTask`, or of the `CondensedTask` of one."""

    kind: Literal["regression"] = "regression"
    noise: Annotated[Any, Member("noise")] = "gaussian"
    """label noise"""
    distractors: int = 0
    """context labels replaced by N(0, 1)"""
    condensed: bool = False
    """draw S itself, for Gaussian covariates and noise and linear functions"""

    def build(self, **context: Any) -> Task:
        """The task; raises `ValueError` for values that make none."""
        task = RegressionTask(
            *self.factors(),
            context_length=self.context_length,
            noise=self.noise.build(dim=self.dim),
            distractors=Distractors(self.distractors),
        )
        return CondensedTask(task) if self.condensed else task


class ClassificationSettings(FactoredSettings):
    """Settings of a `ClassificationTask`: the values of the functions are logits of classes."""

    kind: Literal["classification"] = "classification"
    outputs: int = 2
    temperature: float = 0.0
    """of the softmax from which classes are drawn; at 0 the largest logit is the class"""

    def build(self, **context: Any) -> Task:
        """The task; raises `ValueError` for values that make none."""
        sizes = {"context_length": self.context_length, "temperature": self.temperature}
        return ClassificationTask(*self.factors(), **sizes)
