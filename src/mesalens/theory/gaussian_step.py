"""The best step of gradient descent where inputs are Gaussian: closed forms, and a simulation."""

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import Gaussian, Task
from mesalens.theory._requirements import linear_regression
from mesalens.theory.one_step import noise_moments

CHUNK = 10_000


def isotropic_step_size(dim: int, context_length: int, noise_variance: float = 0.0) -> float:
    r"""The best size of one step of `GradientDescent` for x ~ N(0, I), w ~ N(0, I).

    $$\eta = \frac{n}{n + d + 1 + \sigma^2}$$

    It is a step on the mean loss of the context; on the sum `1/2 Σ_i (w · x_i - y_i)²` it is η / n.

    Args:
        dim: d, the number of entries of a covariate.
        context_length: n, the number of examples in a prompt.
        noise_variance: σ², the variance of the label noise.

    Returns:
        η.

    Source: Mahankali et al. (2024), Theorem 1.

    Examples:
        >>> from mesalens import theory
        >>> theory.isotropic_step_size(5, 14)
        0.7
    """
    return context_length / (context_length + dim + 1 + noise_variance)


def gaussian_preconditioner(task: Task) -> Float[np.ndarray, "d d"]:
    r"""The best preconditioner P* of one step for x ~ N(0, Σ), w ~ N(0, Λ), in closed form.

    $$P^* = \Lambda \Sigma \left[(n + 1) \Sigma \Lambda \Sigma
    + \operatorname{tr}(\Sigma \Lambda) \Sigma + E[\varepsilon^2 x x^T]\right]^{-1}, \qquad
    \hat y = x_q^T P^* \sum_i y_i x_i$$

    For noise whose variance σ² does not depend on x the last term is σ² Σ. For Λ = Σ^-1 then
    P* = Σ^-1 / (n + d + 1 + σ²) (Mahankali et al., 2024, Theorem 2), and for Λ = I and σ = 0
    P* = [(n + 1) Σ + tr(Σ) I]^-1 (Zhang et al., 2024). It equals
    [`best_preconditioner`][mesalens.theory.best_preconditioner], without moments of S.

    Args:
        task: Linear regression on Gaussian inputs. Σ and Λ may be any that are positive definite.

    Returns:
        P*, of shape (d, d), in float64.

    Raises:
        ValueError: If functions are not linear or have a mean, inputs are not Gaussian, or there
            are distractors.
    """
    task, functions = linear_regression(
        task,
        "optimal_layer(task, relative_error=0.01).descent_preconditioner is for all tasks",
        distractors=False,
    )
    if not isinstance(task.covariates, Gaussian):
        raise InputError(
            f"covariates must be Gaussian for this formula; got {type(task.covariates).__name__}: "
            "use best_preconditioner."
        )
    if np.any(functions.weight_mean()):
        raise InputError("mean must be 0 for this formula: use best_preconditioner.")
    sigma, of_weights = task.covariates.second_moment(), functions.row_covariance()
    signal, (_, noise) = sigma @ of_weights, noise_moments(task)
    spread = (task.context_length + 1) * signal @ sigma + np.trace(signal) * sigma + noise
    return of_weights @ sigma @ np.linalg.inv(spread)


def simulated_step_size(
    dim: int, context_length: int, noise_variance: float, rng: np.random.Generator, prompts: int
) -> float:
    r"""The step size of `isotropic_step_size`, simulated from the expression in the proof.

    $$\eta = \frac{n E[\hat w^T X^T y]}{E[y^T X X^T y]}$$

    where ŵ is the Bayes estimate, ridge regression with the penalty σ². Without noise ŵ is the
    limit of ridge regression.

    Args:
        dim: d, the number of entries of a covariate.
        context_length: n, the number of examples in a prompt.
        noise_variance: σ², the variance of the label noise.
        rng: A NumPy generator for the prompts.
        prompts: The number of prompts, rounded up to chunks of 10,000.

    Returns:
        The estimate of η.

    Source: Mahankali et al. (2024), Theorem 1.
    """
    sums = np.zeros(2)
    # In float64 a penalty of 1e-9 is within 1e-6 of the limit
    penalty = max(noise_variance, 1e-9) * np.eye(dim)
    for _ in range(-(-prompts // CHUNK)):
        xs, w = rng.normal(size=(CHUNK, context_length, dim)), rng.normal(size=(CHUNK, dim, 1))
        ys = xs @ w + np.sqrt(noise_variance) * rng.normal(size=(CHUNK, context_length, 1))
        s = xs.swapaxes(1, 2) @ ys
        ridge = np.linalg.solve(xs.swapaxes(1, 2) @ xs + penalty, s)
        sums += np.sum(ridge * s), np.sum(s**2)
    return context_length * float(sums[0] / sums[1])
