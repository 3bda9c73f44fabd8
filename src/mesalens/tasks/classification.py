"""`ClassificationTask`: labels that are classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, is_zero, non_negative
from mesalens.prompt import Prompt
from mesalens.tasks.base import FactoredTask, KeyArray, Targets


class ClassificationTask(FactoredTask):
    r"""In-context classification: the m entries of f(x) are the logits of m classes.

    $$x_i \sim \text{covariates}, \quad f \sim \text{functions}$$

    $$c_i \sim \operatorname{softmax}(f(x_i) / \text{temperature}), \quad
    i = 1, \dots, n \text{ and the query}$$

    Labels and the target are one-hot, `y_i = e_{c_i}`. At temperature 0 the class is that of the
    largest logit, the first if several are equal. A class is drawn as the largest entry of
    `f(x) + temperature · g` with independent standard Gumbel variables g, which has this law.

    Attributes:
        covariates: The distribution of the inputs.
        functions: The prior of the functions, with one output for each class.
        context_length: n, the number of examples in a prompt.
        temperature: The temperature of the softmax, at least 0.

    Raises:
        ValueError: If there are fewer than two outputs, a factor is of the wrong kind, sizes
            differ, or the temperature is not a finite number of at least 0.

    Examples:
        >>> from mesalens import random, tasks
        >>> task = tasks.ClassificationTask(
        ...     tasks.Gaussian(2), tasks.LinearFunctions(2, 3), context_length=4
        ... )
        >>> prompt, target = task.sample(random.key(0))
        >>> prompt.ys.shape, float(target.sum())
        ((4, 3), 1.0)
    """

    temperature: float | Float[Array, ""] = eqx.field(default=0.0, kw_only=True)

    def __check_init__(self):
        super().__check_init__()  # before the rest, which relies on it; Equinox would call it last
        non_negative("temperature", self.temperature)
        if self.outputs < 2:
            raise InputError(
                f"functions must have at least 2 outputs, one for each class; got {self.outputs}."
            )

    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> tuple[Prompt, Targets]:
        """Independent prompts with leading axes `shape`, and the target of each, float32."""
        covariate_key, function_key, class_key = jax.random.split(key, 3)
        xs = self.covariates.prompts(covariate_key, shape, self.context_length + 1)
        logits = self.functions(function_key, xs)
        if not is_zero(self.temperature):
            logits = logits + self.temperature * jax.random.gumbel(class_key, logits.shape)
        ys = jax.nn.one_hot(jnp.argmax(logits, axis=-1), self.outputs, dtype=xs.dtype)
        return Prompt(xs[..., :-1, :], ys[..., :-1, :], xs[..., -1, :]), ys[..., -1, :]
