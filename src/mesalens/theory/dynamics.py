"""Gradient flow of one layer of linear self-attention: fixed points, and exact time courses.

Flow is dθ/dt = -∂R/∂θ on the risk R = E‖ŷ - y_q‖². For the layers of Zhang, Singh, Latham and Saxe
(2025), who divide the sum over the context by n and follow the flow on R/2 with the time constant
τ, weights are n^(1/f) times ours and t/τ is 2 n^(2/f) times our t, with f = 2 factors for merged
and f = 3 for separate keys and queries.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from mesalens.checks import InputError, count, positive
from mesalens.models import LinearTransformer, LowRank
from mesalens.theory.moments import ContextMoments
from mesalens.theory.rank_step import directions, step_along

ALIKE = 1e-9
"""Two vectors are parallel if they differ by this share of their length."""

Times = Sequence[float] | Float[np.ndarray, " times"]


def fixed_point(moments: ContextMoments, subset: Sequence[int]) -> LinearTransformer:
    """A stationary layer of gradient flow with heads of rank 1: the step along some directions.

    Head i has `W_K = t r_i/‖r_i‖`, `W_Q = t l_i/‖l_i‖` and `B_yy = -t`, `t³ = σ_i ‖l_i‖ ‖r_i‖`, or
    zeros if i is not in the subset; σ, l and r are the [`directions`][mesalens.theory.directions]
    of the best step. With `G = E[s (y_q - ŷ) x_q^T]` the gradients of a head are `2 k^T G q`, `2 b
    G q` and `2 b G^T k`, and G is 0 on the directions in the subset. If the σ_i differ, no other
    functions of such layers are stationary. Heads of zeros have no curvature: R changes along them
    by `2 b k^T G q`.

    Args:
        moments: The moments of a task with one output.
        subset: Distinct indices of directions, from 0.

    Returns:
        The layer, with one head for each direction, in float64.

    Raises:
        ValueError: If an index does not exist or is given twice.

    Source: Zhang, Singh, Latham and Saxe (2025), arXiv 2501.16265.
    """
    _expectations(moments)  # raises for unsupported moments
    step_along(moments, subset)  # raises for an invalid subset
    singular, left, right = directions(moments)
    lengths = np.linalg.norm(left, axis=1, keepdims=True), np.linalg.norm(right, axis=1)[:, None]
    size = np.zeros((len(singular), 1))
    size[[*subset]] = np.cbrt(singular[:, None] * lengths[0] * lengths[1])[[*subset]]
    factors = size * left / lengths[0], size * right / lengths[1], -size
    with jax.enable_x64(True):
        W_Q, W_K, B_yy = (jnp.asarray(factor[None, :, None, :]) for factor in factors)
        return LinearTransformer(LowRank(W_Q, W_K, B_yy), layers=1)


def merged_time_course(
    moments: ContextMoments, start: float, times: Times
) -> Float[np.ndarray, " times"]:
    r"""The time course m(t)/m(∞) of a balanced layer with a free A_xx; its step is `m(t)/m(∞) P*`.

    Balanced means `A_h = -b_h Z` with `Z = L^T/‖L‖_F`, and `m = Σ_h b_h²`. If the flow stays on Z,
    `K Z M = κ Z`, as on tasks that are the same in every rotated frame, then
    `dm/dt = 4 m (‖L‖ - κ m)` and

    $$\frac{m(t)}{m(\infty)} = \frac{1}{1 + (m(\infty)/m(0) - 1) \exp(-4 \|L\| t)}, \qquad
    m(\infty) = \frac{\|L\|}{\kappa}$$

    in the notation of [`directions`][mesalens.theory.directions]. For x ~ N(0, I), w ~ N(0, I),
    `‖L‖ = n √d` and `m(∞) = √d/(n + d + 1)`.

    Args:
        moments: The moments of the task.
        start: m(0), the sum of the squares of B_yy over heads.
        times: Times t from 0, of shape (times,).

    Returns:
        The ratio at each time, of shape (times,).

    Raises:
        ValueError: If the flow does not stay on Z, or m(0) is not positive.

    Source: Zhang, Singh, Latham and Saxe (2025), arXiv 2501.16265.
    """
    positive("start", start)
    squares, labels, query = _expectations(moments)
    size = np.linalg.norm(labels)
    direction = labels / size
    curvature = float(np.sum(direction * (squares @ direction @ query)))
    if not _parallel(squares @ direction @ query, direction):
        raise InputError(
            "K L^T M must be a multiple of L^T for this time course, as on isotropic tasks."
        )
    decay = np.exp(-4 * size * np.asarray(times, float))
    return 1 / (1 + (size / curvature / start - 1) * decay)


def escape_time_course(
    moments: ContextMoments, place: int, start: float, times: Times
) -> Float[np.ndarray, " times"]:
    r"""The size a(t) of each of the three factors of a head of rank 1 that learns a direction.

    From a plateau a balanced head `W_K = a u`, `W_Q = a v`, `B_yy = -a` grows, where u and v are
    r_i and l_i scaled to length 1. If these are eigenvectors, `K u = k u` and `M v = μ v`, and
    `L^T v = c u`, then what other heads have learned does not matter and

    $$\frac{da}{dt} = 2 a^2 (c - k \mu a^3), \qquad a(\infty)^3 = \frac{c}{k \mu}$$

    in the notation of [`directions`][mesalens.theory.directions]. For x ~ N(0, Σ) with the
    eigenvalue λ and w ~ N(0, I) this is `c = n λ²` and `k μ = n² λ³ (1 + (1 + tr Σ/λ)/n)`.

    Args:
        moments: The moments of the task.
        place: The index i of the direction, from 0.
        start: a(0).
        times: Times t, increasing from 0, of shape (times,).

    Returns:
        a(t) at each time, of shape (times,).

    Raises:
        ValueError: If there is no such direction, or u and v are not eigenvectors.

    Source: Zhang, Singh, Latham and Saxe (2025), arXiv 2501.16265.
    """
    positive("start", start)
    singular, left, right = directions(moments)
    place = count("place", place, at_least=0, at_most=len(singular) - 1)
    u, v = (each[place] / np.linalg.norm(each[place]) for each in (right, left))
    squares, labels, query = _expectations(moments)
    if not (_parallel(squares @ u, u) and _parallel(query @ v, v) and _parallel(labels @ v, u)):
        raise InputError(
            f"direction {place} must be an eigenvector of K and of M for this time course, as "
            "it is if the covariances of inputs and weights commute."
        )
    gain, cost = u @ labels @ v, (u @ squares @ u) * (v @ query @ v)
    times = np.asarray(times, float)
    solution = solve_ivp(
        lambda _, a: 2 * a**2 * (gain - cost * a**3),
        (0.0, times[-1]),
        [start],
        "LSODA",
        times,
        rtol=1e-9,
        atol=1e-12 * start,
    )
    return solution.y[0]


def _expectations(moments: ContextMoments) -> tuple[Float[np.ndarray, "d d"], ...]:
    """K, L^T and M in the coordinates of the inputs, in which the weights are."""
    directions(moments)  # raises for joint moments
    if moments.outputs != 1:
        raise InputError(f"outputs must be 1 for gradient flow; got {moments.outputs}.")
    R, (squares, labels) = moments.inputs, moments.of_labels()
    return R @ squares @ R.T, R @ labels @ R.T, R @ moments.query @ R.T


def _parallel(one: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]) -> bool:
    along = np.sum(one * other) / np.sum(other**2)
    return bool(np.linalg.norm(one - along * other) <= ALIKE * np.linalg.norm(one))
