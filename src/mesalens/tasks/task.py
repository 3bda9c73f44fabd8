"""`Task`: a distribution over prompts."""

import abc

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count
from mesalens.prompt import Prompt
from mesalens.tasks.covariates import Covariates
from mesalens.tasks.distractors import Distractors
from mesalens.tasks.functions import Functions
from mesalens.tasks.noise import GaussianNoise


class Task(eqx.Module):
    """A distribution over prompts with targets. For a task of your own, write `sample`."""

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> tuple[Prompt, Float[Array, "*shape m"]]:
        """Independent prompts, `shape` many, each with its target `y_query`."""


class RegressionTask(Task):
    """Covariates × functions × noise × distractors × context length, each a free choice.

        x_i ~ covariates,  f ~ functions,  y_i = f(x_i) + noise,   i = 1 … n and the query;

    then some labels of the context, never the target, are replaced by distractors. The target is the query's own label, noise
    included: no learner has a risk below m times the noise variance.

    Raises `ValueError` where sizes do not match, or there are more distractors than examples.
    """

    covariates: Covariates
    functions: Functions
    context_length: int = eqx.field(static=True, kw_only=True)
    noise: GaussianNoise = eqx.field(default_factory=GaussianNoise, kw_only=True)
    distractors: Distractors = eqx.field(default_factory=Distractors, kw_only=True)

    def __check_init__(self):
        count("the context length", self.context_length)
        if self.covariates.dim != self.functions.dim:
            raise InputError(
                f"the covariates have dimension {self.covariates.dim} and the functions take {self.functions.dim}; "
                "give both the same."
            )
        if isinstance(self.distractors.count, int) and self.distractors.count > self.context_length:
            raise InputError(
                f"there are {self.distractors.count} distractors in a context of {self.context_length}; "
                "give at most as many as the context has examples."
            )

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.covariates.dim

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.functions.outputs

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> tuple[Prompt, Float[Array, "*shape m"]]:
        """Independent prompts, `shape` many, each with its target; float32.

        One draw for the whole batch is faster than `jax.vmap` over keys, and as good.
        """
        covariate_key, function_key, noise_key, distractor_key = jax.random.split(key, 4)
        xs = self.covariates.sample(covariate_key, (*shape, self.context_length + 1))
        ys = self.noise(noise_key, self.functions(function_key, xs))
        context = self.distractors(distractor_key, ys[..., :-1, :])
        return Prompt(xs[..., :-1, :], context, xs[..., -1, :]), ys[..., -1, :]
