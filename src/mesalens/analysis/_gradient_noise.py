"""The noise of stochastic gradients, compared with normal noise."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis._hessian import at_weights
from mesalens.checks import count
from mesalens.learners import Learner
from mesalens.learners.base import predict_batch
from mesalens.random import unroll
from mesalens.tasks import Task


def gradient_noise(
    learner: Learner,
    task: Task,
    key: Key[Array, ""],
    *,
    batch_size: int = 256,
    batches: int = 1000,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99),
) -> xr.Dataset:
    """Quantiles of the length ‖g - E g‖ of the noise of stochastic gradients g.

    g is the gradient of the mean of ‖ŷ - y‖² over a batch of fresh prompts with respect to the
    trained weights. For comparison there is ‖z‖ for z ~ N(0, C): ‖z‖² = Σ_i λ_i ζ_i², λ the
    eigenvalues of C = Cov g and ζ standard normals. E g and C are those of the sample.

    Args:
        learner: The learner.
        task: The distribution of prompts.
        key: A random key.
        batch_size: The number of prompts of a batch.
        batches: The number of batches.
        quantiles: The quantiles, from 0 to 1.

    Returns:
        A dataset of `noise` and `normal` over `quantile`.

    Raises:
        ValueError: If there are fewer than two batches.

    Source: the code of Ahn et al. (2024), arXiv 2310.01082, which draws the histogram of ‖g - E g‖.
    """
    count("batch_size", batch_size)
    gradient_key, normal_key = jax.random.split(unroll(key))
    keys = jax.random.split(gradient_key, count("batches", batches, at_least=2))
    gradients = np.asarray(_gradients(learner, task, keys, batch_size), np.float64)
    noise = gradients - gradients.mean(0)
    deviations = np.linalg.svd(noise, compute_uv=False) / np.sqrt(batches - 1)
    z = deviations * np.asarray(jax.random.normal(normal_key, (batches, len(deviations))))
    vectors = {"noise": noise, "normal": z}
    lengths = {n: np.quantile(np.linalg.norm(v, axis=1), quantiles) for n, v in vectors.items()}
    found = {name: ("quantile", values) for name, values in lengths.items()}
    return xr.Dataset(found, {"quantile": list(quantiles)})


@eqx.filter_jit
def _gradients(
    learner: Learner, task: Task, keys: Key[Array, " batches"], batch_size: int
) -> Float[Array, "batches weights"]:
    def gradient(key):
        prompts, targets = task.sample(key, (batch_size,))

        def loss(learner):
            return jnp.sum((predict_batch(learner, prompts) - targets) ** 2) / batch_size

        function, weights = at_weights(loss, learner)
        return jax.grad(function)(weights)

    return jax.lax.map(gradient, keys)
