"""`ClassificationTask`: labels that are classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, non_negative
from mesalens.prompt import Prompt
from mesalens.tasks.covariates import Covariates
from mesalens.tasks.functions import Functions
from mesalens.tasks.task import Task


class ClassificationTask(Task):
    """Covariates × functions × temperature × context length: the m entries of f(x) are the logits of m classes.

        x_i ~ covariates,  f ~ functions,  c_i ~ softmax(f(x_i) / temperature),   i = 1 … n and the query;

    labels and the target are one-hot, `y_i = e_{c_i}`. At temperature 0 the class is the largest logit, the first of equals. A class is
    drawn as the largest entry of `f(x) + temperature · g`, g of independent standard Gumbel variables, which has this law.

    Raises `ValueError` where there are fewer than two outputs, sizes do not match, or the temperature is no number or below 0.
    """

    covariates: Covariates
    functions: Functions
    context_length: int = eqx.field(static=True, kw_only=True)
    temperature: float | Float[Array, ""] = eqx.field(default=0.0, kw_only=True)

    def __check_init__(self):
        count("the context length", self.context_length)
        non_negative("the temperature", self.temperature)
        if self.covariates.dim != self.functions.dim:
            raise InputError(
                f"the covariates have dimension {self.covariates.dim} and the functions take {self.functions.dim}; "
                "give both the same."
            )
        if self.functions.outputs < 2:
            raise InputError(
                f"the functions have {self.functions.outputs} output, and each class needs a logit; give functions of two outputs or more."
            )

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.covariates.dim

    @property
    def outputs(self) -> int:
        """m, the number of classes."""
        return self.functions.outputs

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> tuple[Prompt, Float[Array, "*shape m"]]:
        """Independent prompts, `shape` many, each with its target; float32."""
        covariate_key, function_key, class_key = jax.random.split(key, 3)
        xs = self.covariates.sample(covariate_key, (*shape, self.context_length + 1))
        logits = self.functions(function_key, xs)
        if not (isinstance(self.temperature, float | int) and self.temperature == 0):
            logits = logits + self.temperature * jax.random.gumbel(class_key, logits.shape)
        ys = jax.nn.one_hot(jnp.argmax(logits, axis=-1), self.outputs, dtype=xs.dtype)
        return Prompt(xs[..., :-1, :], ys[..., :-1, :], xs[..., -1, :]), ys[..., -1, :]
