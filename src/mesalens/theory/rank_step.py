"""Steps of descent whose preconditioner has a given rank: where layers stop on their way."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError, count
from mesalens.theory.linear_prediction import whitening
from mesalens.theory.moments import ContextMoments

Directions = tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r d"], Float[np.ndarray, "r d"]]


def directions(moments: ContextMoments) -> Directions:
    """The directions of the best step, `P* = Σ_i σ_i l_i r_i^T` in `ŷ = x_q^T P Σ_i y_i x_i`.

    Let `L = E[x_q y_q s^T]`, `K = E[s s^T]` and `M = E[x x^T]` with `s = Σ_i y_i x_i`, and let σ_1
    ≥ σ_2 ≥ … be the singular values and u_i, v_i the singular vectors of `M^-1/2 L K^-1/2`. Then
    `l_i = M^-1/2 u_i` and `r_i = K^-1/2 v_i`. Any sum over a subset is stationary for factors of P.

    Args:
        moments: The moments of the task.

    Returns:
        σ of shape (r,), and l and r of shape (r, d), one direction in each row.

    Raises:
        ValueError: If context and query share more than the function.
    """
    if moments.joint is not None:
        raise InputError(
            "moments must be of a task whose context and query share the function only: otherwise "
            "K and M do not determine the mean square of a prediction."
        )
    squares, labels = moments.of_labels()
    of_query, of_context = whitening(moments.query), whitening(squares)
    left, singular, right = np.linalg.svd(of_query @ labels.T @ of_context.T, full_matrices=False)
    back = np.linalg.pinv(moments.inputs)
    return singular, left.T @ of_query @ back, right @ of_context @ back


def step_along(
    moments: ContextMoments, subset: Sequence[int]
) -> tuple[Float[np.ndarray, "d d"], float]:
    """The step `P = Σ_{i in subset} σ_i l_i r_i^T` along some of the `directions`.

    Args:
        moments: The moments of the task.
        subset: Distinct indices of directions, from 0.

    Returns:
        P, of shape (d, d), and its risk `E‖y_q‖² - Σ_{i in subset} σ_i²`.

    Raises:
        ValueError: If an index does not exist or is given twice.
    """
    singular, left, right = directions(moments)
    chosen = [count("subset", i, at_least=0, at_most=len(singular) - 1) for i in subset]
    if len(set(chosen)) < len(chosen):
        raise InputError(f"subset must have distinct places; got {[*subset]}.")
    P = (singular[chosen] * left[chosen].T) @ right[chosen]
    return P, moments.null_risk - float(np.sum(singular[chosen] ** 2))


def best_rank_step(moments: ContextMoments, rank: int) -> tuple[Float[np.ndarray, "d d"], float]:
    r"""The best step `ŷ = x_q^T P Σ_i y_i x_i` with a preconditioner P of a given rank.

    $$P = \sum_{i \le \text{rank}} \sigma_i l_i r_i^T, \qquad
    R = E\|y_q\|^2 - \sum_{i \le \text{rank}} \sigma_i^2$$

    in the notation of [`directions`][mesalens.theory.directions], by Eckart and Young's theorem for
    the whitened P.

    The one of rank 1 is a saddle at which layers with one head may stop. They can read the block of
    S in which labels meet inputs with x in the keys and y in the values, which gives any P; or with
    y in the keys and x in the values, which gives `P = v u^T`. To add a direction to the best of
    the second kind three factors have to grow that are all 0 there, so that it has neither slope
    nor negative curvature.

    Args:
        moments: The moments of the task.
        rank: From 0, which predicts 0, to d, the best step.

    Returns:
        P, of shape (d, d), and its risk R.

    Raises:
        ValueError: If there is no such rank.
    """
    rank = count("rank", rank, at_least=0, at_most=len(directions(moments)[0]))
    return step_along(moments, range(rank))


def plateau_risks(moments: ContextMoments) -> Float[np.ndarray, " ranks"]:
    r"""The risks `E‖y_q‖² - Σ_{i ≤ rank} σ_i²` of the best steps of rank 0, 1, …, d.

    For x ~ N(0, Σ) with eigenvalues λ_i, w ~ N(0, I) and noise of variance σ²,

    $$\sigma_i^2 =
    \frac{\lambda_i}{1 + (1 + (\operatorname{tr} \Sigma + \sigma^2) / \lambda_i) / n}.$$

    Args:
        moments: The moments of the task.

    Returns:
        The risks, of shape (r + 1,).

    Source of the case of Gaussian inputs: Zhang, Singh, Latham and Saxe (2025), arXiv 2501.16265.
    """
    singular = directions(moments)[0]
    return moments.null_risk - np.concatenate([[0.0], np.cumsum(singular**2)])
