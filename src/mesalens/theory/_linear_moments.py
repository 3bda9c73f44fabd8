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
    """The moments of a task with linear functions and symmetric noise, exactly.

    They follow from `M = E[z z^T]` and `F(G) = E[(z^T G z) z z^T]` of the covariates, and from the
    variance `s + z^T H z` given z and the mean fourth cumulant κ4 of the noise.

    A label is `y = W z + ε`, the rows of W independent, each with covariance Λ around its row of
    the mean W̄. With `J = [I; W̄]`, `N = [0; I]`, its columns n_k, and `NN = N N^T` a token is
    `e = J z + N b`. Given z the m entries of b are independent, each a normal of variance
    `z^T Λ z` plus noise: they have the variance `v = s + z^T Q z`, `Q = Λ + H`, odd moments 0 and
    the fourth cumulant of the noise. With every sum over the different ways to give the four places
    to the factors,

        E[e e^T]         = J M J^T + E[v] NN                                                   =: μ
        E[e ⊗ e ⊗ e ⊗ e] = E[(J z)^⊗4] + Σ_6 (J E[v z z^T] J^T) ⊗ NN + E[v²] Σ_3 NN ⊗ NN
                         + κ4 Σ_k n_k ⊗ n_k ⊗ n_k ⊗ n_k

        E[v] = s + tr(Q M),   E[v z z^T] = s M + F(Q),   E[v²] = s² + 2 s tr(Q M) + tr(Q F(Q)),

    and for two examples of one prompt, which share W but no noise,

        E[e e^T ⊗ e' e'^T] = μ ⊗ μ + C,   C = Σ_4 NN ⊗ (J M Λ M J^T) + tr(M Λ M Λ) Σ_2 NN ⊗ NN,

    the sums over the ways in which each factor takes one place of e and one of e'. A distractor is
    a token with W = 0 and Gaussian noise of its own, and shares nothing. S sums over c examples and
    k distractors, so that its covariance is c times that of e e^T, k times that of a distractor,
    and c (c - 1) C.

    Raises:
        ValueError: if functions are not linear, noise is not symmetric, d + m is above 80 (the
            tensors have (d + m)⁴ entries), or moments are not stated or infinite.
    """
    task, functions = linear_regression(task)
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
    """E[z ⊗ z ⊗ z ⊗ z], from the contraction F(G) that covariates state."""
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
