"""The moments of linear regression tasks, exactly."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import Covariates, RegressionTask
from mesalens.theory._requirements import linear_regression
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import svec

LARGEST = 80


def linear_moments(task: RegressionTask) -> ContextMoments:
    r"""The exact moments of a task with linear functions and symmetric noise.

    They follow from `M = E[z z^T]` and `F(G) = E[(z^T G z) z z^T]` of the covariates, and from the
    variance `s + z^T H z` given z and the mean fourth cumulant κ4 of the noise.

    A label is `y = W z + ε`, the rows of W independent, each with covariance Λ around its row of
    the mean W̄. With `J = [I; W̄]`, `N = [0; I]`, its columns n_k, and `NN = N N^T` a token is
    `e = J z + N b`. Given z the m entries of b are independent with variance `v = s + z^T Q z`,
    `Q = Λ + H`, odd moments 0 and the fourth cumulant of the noise. Writing Σ_6 (and likewise Σ_3)
    for the sum over the different ways to give the four places to the factors,

    $$E[e e^T] = J M J^T + E[v] NN =: \mu$$

    $$E[e^{\otimes 4}] = E[(J z)^{\otimes 4}]
    + \textstyle\sum_6 (J E[v z z^T] J^T) \otimes NN + E[v^2] \sum_3 NN \otimes NN
    + \kappa_4 \sum_k n_k^{\otimes 4}$$

    $$E[v] = s + \operatorname{tr}(Q M), \qquad E[v z z^T] = s M + F(Q)$$

    $$E[v^2] = s^2 + 2 s \operatorname{tr}(Q M) + \operatorname{tr}(Q F(Q)).$$

    For two examples of one prompt, which share W but no noise,

    $$E[e e^T \otimes e' e'^T] = \mu \otimes \mu + C$$

    $$C = \textstyle\sum_4 NN \otimes (J M \Lambda M J^T)
    + \operatorname{tr}(M \Lambda M \Lambda) \sum_2 NN \otimes NN,$$

    the sums over the ways in which each factor takes one place of e and one of e'. A distractor is
    a token with W = 0 and Gaussian noise of its own, and shares nothing. S sums over c examples and
    k distractors, so that its covariance is c times that of e e^T, plus k times that of a
    distractor, plus c (c - 1) C.

    Args:
        task: Linear regression with symmetric noise.

    Returns:
        The moments, in float64.

    Raises:
        ValueError: If functions are not linear, noise is not symmetric, d + m is above 80 (the
            tensors have (d + m)⁴ entries), or moments are not defined or infinite.
    """
    task, functions = linear_regression(
        task, "simulated_moments(task, relative_error=0.01) simulates them"
    )
    if not task.noise.symmetric:
        raise InputError(
            f"noise must be symmetric for exact moments; {type(task.noise).__name__} does not set "
            "symmetric: set it in the class if it is, or simulate the moments instead."
        )
    covariates, R = task.covariates.standardised()
    d, m = R.shape[1], task.outputs
    if d + m > LARGEST:
        raise InputError(
            f"d + m must be at most {LARGEST}, as moments of S have (d + m)⁴ entries; got {d + m}."
        )
    W, prior = functions.weight_mean() @ R, R.T @ functions.row_covariance() @ R
    constant, growth = task.noise.conditional_variance(task.dim)
    label = _Label(W, prior + R.T @ growth @ R, float(constant), task.noise.fourth_cumulant())
    distractor = _Label(0 * W, 0 * prior, float(task.distractors.variance), 0.0)
    k, n = int(task.distractors.count), task.context_length
    c = n - k
    M, X = covariates.second_moment(), fourth_moments(covariates)

    mean, covariance = _token(M, X, label)
    other_mean, other_covariance = _token(M, X, distractor)
    total, target = c * mean + k * other_mean, mean[:d, d:]
    NN = np.diag([0.0] * d + [1.0] * m)
    J = np.concatenate([np.eye(d), W])
    shared = J @ M @ prior @ M @ J.T
    pairs = _across(shared + np.trace(M @ prior @ M @ prior) / 2 * NN, NN)

    second = np.multiply.outer(total, total) + c * (c - 1) * pairs
    second += c * covariance + k * other_covariance
    cross = np.multiply.outer(target.T, total) + c * pairs[d:, :d]
    return ContextMoments(
        inputs=R,
        query=M,
        target=target,
        mean=svec(total),
        second=svec(svec(second).T),
        cross=svec(cross).T,
        null_risk=float(np.trace(mean[d:, d:])),
    )


class _Label(NamedTuple):
    """The law of y given z: mean W̄ z, variance `constant + z^T growth z`, fourth cumulant."""

    mean: Float[np.ndarray, "m d"]
    growth: Float[np.ndarray, "d d"]
    constant: float
    fourth_cumulant: float


def fourth_moments(covariates: Covariates) -> Float[np.ndarray, "d d d d"]:
    """E[z ⊗ z ⊗ z ⊗ z], from the contraction F(G) of the covariates."""
    d = covariates.dim
    eye, tensor = np.eye(d), np.empty((d, d, d, d))
    for a, b in itertools.combinations_with_replacement(range(d), 2):
        weight = (np.outer(eye[a], eye[b]) + np.outer(eye[b], eye[a])) / 2
        tensor[a, b] = tensor[b, a] = covariates.fourth_moment(weight)
    return tensor


def _token(M, X, label: _Label) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "D D D D"]]:
    """The mean of e e^T and its covariance, E[e ⊗ e ⊗ e ⊗ e] less the square of the mean."""
    m, d = label.mean.shape
    J = np.concatenate([np.eye(d), label.mean])
    NN = np.diag([0.0] * d + [1.0] * m)
    weighted = np.einsum("abcd,cd->ab", X, label.growth)
    constant, grown = label.constant, np.trace(label.growth @ M)
    squared = np.sum(weighted * label.growth) + 2 * constant * grown + constant**2
    tensor = X
    for _ in range(4):  # J on every axis
        tensor = np.tensordot(tensor, J, axes=(0, 1))
    inner = J @ (weighted + constant * M) @ J.T
    tensor = tensor + placements(inner + squared / 2 * NN, NN)
    outputs = np.arange(d, d + m)
    tensor[outputs, outputs, outputs, outputs] += label.fourth_cumulant
    mean = J @ M @ J.T + (grown + constant) * NN
    return mean, tensor - np.multiply.outer(mean, mean)


def placements(first, second) -> Float[np.ndarray, "D D D D"]:
    """Σ_6, over the ways to give two of the four places to each factor."""
    outer = np.multiply.outer(first, second)
    return outer + outer.transpose(2, 3, 0, 1) + _across(first, second)


def _across(first, second) -> Float[np.ndarray, "D D D D"]:
    """Σ_4, over those of them that give each factor a place in (a, b) and one in (c, d)."""
    outer = np.multiply.outer(first, second)
    outer = outer + outer.transpose(2, 3, 0, 1)
    return outer.transpose(0, 2, 1, 3) + outer.transpose(0, 2, 3, 1)
