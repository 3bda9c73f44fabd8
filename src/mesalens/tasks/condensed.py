"""`CondensedTask`: linear regression on Gaussian covariates, with S drawn itself."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError
from mesalens.prompt import Prompt
from mesalens.random import chi_squared
from mesalens.tasks.covariates import Gaussian
from mesalens.tasks.functions import LinearFunctions
from mesalens.tasks.task import RegressionTask, Task


class CondensedTask(Task):
    """The law of (S, x_query, y_query) of a task, in condensed prompts: a context of a million examples costs what ten cost.

    An example is `x = R z`, `y = W x + σ ζ` with (z, ζ) ~ N(0, I), of size d + m; so what n of them add up to is Wishart, and has
    Bartlett's decomposition:

        Σ_i (z_i, ζ_i) (z_i, ζ_i)^T = T T^T  in law,    T lower triangular, T_kk² ~ χ²(n - k) for k = 0, 1, …,    T_jk ~ N(0, 1) for j > k,

    all independent. The rows of the prompt are `x'_k = R t_k`, `y'_k = W x'_k + σ τ_k` with (t_k, τ_k) the k-th column of T, which have
    the S of n examples. There are d + m of them, or d without noise; where n is no larger the examples themselves are drawn.

    Learners that see single examples must not be trained on it; see `Prompt`.

    Raises `ValueError` where the covariates are not `Gaussian`, the functions not `LinearFunctions`, or labels are replaced by distractors.

    Source: Bartlett, Proceedings of the Royal Society of Edinburgh 53 (1933).
    """

    task: RegressionTask

    def __check_init__(self):
        covariates, functions = self.task.covariates, self.task.functions
        if not isinstance(covariates, Gaussian) or not isinstance(functions, LinearFunctions):
            raise InputError(
                "S can be drawn itself for Gaussian covariates and LinearFunctions, and the task has "
                f"{type(covariates).__name__} and {type(functions).__name__}; draw its examples instead."
            )
        if not isinstance(self.task.distractors.count, int) or self.task.distractors.count > 0:
            raise InputError("S cannot be drawn itself where a task has distractors; leave them out, or draw examples.")

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.task.dim

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.task.outputs

    @property
    def context_length(self) -> int:
        """n, the number of examples that a context stands for."""
        return self.task.context_length

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> tuple[Prompt, Float[Array, "*shape m"]]:
        """Independent condensed prompts, `shape` many, each with its target; float32."""
        task, d, n = self.task, self.dim, self.context_length
        covariates = task.covariates
        assert isinstance(covariates, Gaussian)  # checked when it was made
        variance = task.noise.variance
        noiseless = isinstance(variance, float | int) and variance == 0
        if n <= (rows := d if noiseless else d + self.outputs):
            return task.sample(key, shape)
        root_key, query_key, function_key, noise_key = jax.random.split(key, 4)
        root = bartlett_root(root_key, n, rows, shape)
        query = covariates.sample(query_key, (*shape, 1))
        xs = jnp.concatenate([covariates.coloured(root[..., :d]), query], axis=-2)
        labels = task.functions(function_key, xs)
        ys, target = labels[..., :-1, :], task.noise(noise_key, labels[..., -1:, :])[..., 0, :]
        if not noiseless:
            ys = ys + jnp.sqrt(variance) * root[..., d:]
        return Prompt(xs[..., :-1, :], ys, query[..., 0, :], examples=n), target


def bartlett_root(
    key: Key[Array, ""], degrees_of_freedom: int, size: int, shape: tuple[int, ...] = ()
) -> Float[Array, "*shape size size"]:
    """Upper triangular U with `U^T U` Wishart of scale I: Bartlett's T^T. The degrees of freedom are at least the size."""
    diagonal_key, normal_key = jax.random.split(key)
    diagonal = jnp.sqrt(chi_squared(diagonal_key, degrees_of_freedom - np.arange(float(size)), (*shape, size)))
    normals = jax.random.normal(normal_key, (*shape, size * (size - 1) // 2))
    beyond = jnp.split(normals, np.cumsum(np.arange(size - 1, 0, -1)), axis=-1)  # of row k, size - 1 - k entries
    rows = [
        jnp.concatenate([jnp.zeros((*shape, k)), diagonal[..., k : k + 1], beyond[k]], axis=-1) for k in range(size)
    ]
    return jnp.stack(rows, axis=-2)
