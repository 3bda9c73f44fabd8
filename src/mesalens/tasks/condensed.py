"""`CondensedTask`: linear regression on Gaussian covariates, with S drawn directly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, is_zero, member
from mesalens.prompt import CondensedPrompt
from mesalens.random import chi_squared
from mesalens.tasks.base import KeyArray, Targets, Task
from mesalens.tasks.covariates.gaussian import Gaussian
from mesalens.tasks.functions.finite_pool import FinitePool
from mesalens.tasks.functions.linear import LinearFunctions
from mesalens.tasks.regression import RegressionTask


class CondensedTask(Task):
    r"""A linear regression task with condensed prompts (S, x_query), at a cost independent of n.

    An example is `x = R z`, `y = W x + σ ζ` with (z, ζ) ~ N(0, I), of size d + m. The sum over n
    examples is therefore Wishart, and has Bartlett's decomposition:

    $$\sum_i (z_i, \zeta_i) (z_i, \zeta_i)^T = T T^T \text{ in law, } T \text{ lower triangular}$$

    $$T_{kk}^2 \sim \chi^2(n - k) \text{ for } k = 0, 1, \dots, \qquad
    T_{jk} \sim N(0, 1) \text{ for } j > k,$$

    all independent. The rows of the prompt are `x'_k = R t_k`, `y'_k = W x'_k + σ τ_k` with
    (t_k, τ_k) the k-th column of T, which have the S of n examples. There are d + m of them, or d
    without noise. If n is not larger than that, the rows are the examples themselves.

    Attributes:
        task: The task whose law this is.

    Raises:
        ValueError: If the covariates are not `Gaussian`, the functions neither `LinearFunctions`
            nor a `FinitePool`, the noise depends on x or is not Gaussian, or there are distractors.

    Source: Bartlett, Proceedings of the Royal Society of Edinburgh 53 (1933).

    Examples:
        A context of a million examples, in rows of size d:

        >>> from mesalens import LeastSquares, random, tasks
        >>> task = tasks.CondensedTask(
        ...     tasks.RegressionTask(
        ...         tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=1_000_000
        ...     )
        ... )
        >>> prompt, target = task.sample(random.key(0))
        >>> prompt.context_length, prompt.x_rows.shape, LeastSquares()(prompt).shape
        (1000000, (5, 5), (1,))
    """

    task: RegressionTask

    def __check_init__(self):
        task = member("task", self.task, RegressionTask)
        member("covariates", task.covariates, Gaussian)
        if not isinstance(task.functions, LinearFunctions | FinitePool):
            raise InputError(
                "functions must be LinearFunctions or a FinitePool for a condensed task; got "
                f"{type(task.functions).__name__}."
            )
        if not (task.noise.gaussian and task.noise.homoscedastic):
            raise InputError(
                f"noise must be Gaussian and independent of x for a condensed task; got "
                f"{type(task.noise).__name__}."
            )
        if not is_zero(count := task.distractors.count):
            raise InputError(f"distractors must be 0 for a condensed task; got {count}.")

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
        """n, the number of examples that S sums over."""
        return self.task.context_length

    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> tuple[CondensedPrompt, Targets]:
        """Independent condensed prompts with leading axes `shape`, and their targets, float32."""
        task, d, n = self.task, self.dim, self.context_length
        variance, _ = task.noise.conditional_variance(d)
        noiseless = is_zero(variance)
        if n <= (rows := d if noiseless else d + self.outputs):
            prompt, target = task.sample(key, shape)
            return CondensedPrompt(prompt.xs, prompt.ys, prompt.query, n), target
        root_key, query_key, function_key, noise_key = jax.random.split(key, 4)
        root = bartlett_root(root_key, n, rows, shape)
        covariates = member("covariates", task.covariates, Gaussian)
        query = covariates.sample(query_key, (*shape, 1))
        xs = jnp.concatenate([covariates.coloured(root[..., :d]), query], axis=-2)
        labels = task.functions(function_key, xs)
        ys = labels[..., :-1, :]
        if not noiseless:
            ys = ys + jnp.sqrt(variance) * root[..., d:]
        target = task.noise(noise_key, labels[..., -1:, :], query)
        return CondensedPrompt(xs[..., :-1, :], ys, query[..., 0, :], n), target[..., 0, :]


# Outside a jitted function JAX would compile the loop of the χ² draw at every call
@functools.partial(jax.jit, static_argnames=("degrees_of_freedom", "size", "shape"), inline=True)
def bartlett_root(
    key: KeyArray, degrees_of_freedom: int, size: int, shape: tuple[int, ...] = ()
) -> Float[Array, "*shape size size"]:
    """Upper triangular U with `U^T U` Wishart of scale I: Bartlett's T^T.

    `degrees_of_freedom` is at least `size`.
    """
    diagonal_key, normal_key = jax.random.split(key)
    freedoms = degrees_of_freedom - np.arange(float(size))
    diagonal = jnp.sqrt(chi_squared(diagonal_key, freedoms, (*shape, size)))
    normals = jax.random.normal(normal_key, (*shape, size * (size - 1) // 2))
    # Concatenated rows instead of a scatter, which would not fuse: row k has size - 1 - k normals
    above = jnp.split(normals, np.cumsum(np.arange(size - 1, 0, -1)), axis=-1)
    rows = [
        jnp.concatenate([jnp.zeros((*shape, k)), diagonal[..., k : k + 1], above[k]], axis=-1)
        for k in range(size)
    ]
    return jnp.stack(rows, axis=-2)
