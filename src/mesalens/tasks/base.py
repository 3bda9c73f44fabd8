"""`Task`: a distribution over prompts, and `FactoredTask`: covariates × functions."""

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from mesalens.checks import InputError, count, member
from mesalens.display import InNotebook, Summary, fields
from mesalens.prompt import AnyPrompt, Prompt
from mesalens.tasks._own_parts import SHAPE, require_draws
from mesalens.tasks.covariates.base import Covariates
from mesalens.tasks.functions.base import Functions, KeyArray

Targets = Float[Array, "*shape m"]
"""The target of each prompt of a batch."""


class Task(eqx.Module, InNotebook):
    """A distribution over prompts with targets.

    To write your own, give `dim`, `outputs` and `context_length` as fields or properties, and
    define `sample`.

    Attributes:
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
        context_length: n, the number of examples in a prompt.
    """

    if TYPE_CHECKING:  # which would count abstract variables among the constructor's parameters
        dim: ClassVar[int]
        outputs: ClassVar[int]
        context_length: ClassVar[int]
    else:
        dim: eqx.AbstractVar[int]
        outputs: eqx.AbstractVar[int]
        context_length: eqx.AbstractVar[int]

    sign_symmetric: ClassVar[bool] = False
    """Whether negating all labels and the target keeps the law. False makes no statement."""
    rotation_invariant: ClassVar[bool] = False
    """Whether rotating all inputs keeps the law. False makes no statement."""

    def __check_init__(self):
        d, m, n = self.sizes.values()

        def draw(key: KeyArray) -> tuple[Any, ...]:
            prompts, targets = self.sample(key, SHAPE)
            rows = (prompts.xs, prompts.ys) if isinstance(prompts, Prompt) else ()
            return targets, *rows

        shapes: dict[str, tuple[int, ...]] = {
            "(*shape, outputs) of the targets": (*SHAPE, m),
            "(*shape, context_length, dim) of the prompts' xs": (*SHAPE, n, d),
            "(*shape, context_length, outputs) of the prompts' ys": (*SHAPE, n, m),
        }
        require_draws(self, f".sample(key, {SHAPE})", draw, shapes)

    def _summary(self) -> Summary:
        d, m, n = self.sizes.values()
        return Summary(f"d = {d}, m = {m}, n = {n}", fields(self))

    @property
    def sizes(self) -> dict[str, int]:
        """`dim`, `outputs` and `context_length`, as keyword arguments of constructions."""
        return {n: getattr(self, n) for n in ("dim", "outputs", "context_length")}

    @abc.abstractmethod
    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> tuple[AnyPrompt, Targets]:
        """Independent prompts with leading axes `shape`, and the target `y_query` of each.

        Args:
            key: A random key.
            shape: The leading axes of the batch; () for a single prompt.

        Returns:
            The prompts, and the targets of shape (*shape, m).
        """


class FactoredTask(Task):
    """A task whose inputs come from `covariates` and whose labels depend on f ~ `functions`.

    Attributes:
        covariates: The distribution of the inputs.
        functions: The prior of the functions.
        context_length: n, the number of examples in a prompt.

    Raises:
        ValueError: If a factor is of the wrong kind, the dimensions differ, or `context_length` is
            below 1.
    """

    covariates: Covariates
    functions: Functions
    context_length: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self):
        count("context_length", self.context_length)
        member("covariates", self.covariates, Covariates)
        member("functions", self.functions, Functions)
        if self.covariates.dim != self.functions.dim:
            raise InputError(
                f"covariates have dim {self.covariates.dim} and functions have dim "
                f"{self.functions.dim}; they must be equal."
            )

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.covariates.dim

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.functions.outputs
