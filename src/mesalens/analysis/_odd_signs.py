"""Whether f and -f are equally likely, by simulation."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.simulation import Estimate, expectation
from mesalens.tasks import RegressionTask


def odd_signs(
    task: RegressionTask, key: Key[Array, ""], *, prompts: int = 10_000
) -> dict[str, float]:
    r"""Means of statistics that change sign with f: all are 0 if f and -f are equally likely.

    $$E \operatorname{sign}(y_1), \qquad E \operatorname{sign}(y_1 + y_2 + y_3), \qquad
    E \operatorname{sign}(y_1 x_{1a}) \text{ for each entry } a \text{ of } x$$

    The standard error of each is at most 1 / √prompts.

    Args:
        task: A regression task with one output.
        key: A random key.
        prompts: The number of prompts, of three examples each.

    Returns:
        The means, by the name of what the sign is of: "y₁", "y₁+y₂+y₃", "y₁x₁,1", ….
    """
    three = dataclasses.replace(task, context_length=2)  # two examples and the query
    names = ["y₁", "y₁+y₂+y₃", *(f"y₁x₁,{a + 1}" for a in range(task.dim))]
    means = np.asarray(_signs(three, key, prompts).value, np.float64)
    return dict(zip(names, means.tolist(), strict=True))


@eqx.filter_jit
def _signs(task: RegressionTask, key: Key[Array, ""], prompts: int) -> Estimate:
    def signs(prompt, target) -> Float[Array, " statistics"]:
        y = jnp.append(prompt.ys[:, 0], target)
        return jnp.sign(jnp.stack([y[0], jnp.sum(y), *(y[0] * prompt.xs[0])]))

    return expectation(signs, task, key, prompts=prompts)
