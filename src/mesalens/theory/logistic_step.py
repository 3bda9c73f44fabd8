"""The step size of least cross-entropy for one step of gradient descent on the logistic loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import scipy.optimize
from jaxtyping import Array, Float, Key

from mesalens.checks import count, positive, random_key
from mesalens.learners import LogisticDescent
from mesalens.prompt import AnyPrompt
from mesalens.tasks import Task

TOLERANCE = 1e-4
"""Of the step size: float32 does not resolve the minimum of a mean more finely."""


def best_logistic_step(
    task: Task, key: Key[Array, ""], *, prompts: int = 20_000, largest: float = 100.0
) -> LogisticDescent:
    r"""One step on the logistic loss, from zero, with the step size of least cross-entropy.

    $$\eta^* = \operatorname*{argmin}_\eta
    \operatorname*{mean}_\text{prompts} -\sum_c y_c \log \operatorname{softmax}(\eta G x_q)_c,
    \qquad G = \frac{1}{n} \sum_i \left(y_i - \frac{1}{m}\right) x_i^T$$

    The logits are linear in η, so that the mean is convex, and has one minimum.

    Args:
        task: A task with labels that are distributions over classes.
        key: A random key for the prompts.
        prompts: The number of prompts; the same ones are used for all step sizes.
        largest: The largest η.

    Returns:
        The learner with the step size η*.

    Raises:
        ValueError: If there are fewer than two classes, or a number is out of range.
    """
    drawn = task.sample(random_key(key), (count("prompts", prompts),))
    found = scipy.optimize.minimize_scalar(
        lambda size: float(_loss(jnp.asarray(size), *drawn)),
        bounds=(0.0, positive("largest", largest)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return LogisticDescent(jnp.asarray(found.x, jnp.float32))


@eqx.filter_jit
def _loss(
    step_size: Float[Array, ""], prompts: AnyPrompt, targets: Float[Array, "batch m"]
) -> Float[Array, ""]:
    """The mean cross-entropy of one step."""
    logits = jax.vmap(LogisticDescent(step_size))(prompts)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))
