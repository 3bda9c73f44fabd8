"""The moments of linear regression tasks, exactly."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import LinearFunctions, RegressionTask
from mesalens.theory._requirements import linear_regression
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import svec

LARGEST = 80


def has_exact_moments(task: RegressionTask) -> bool:
    """Whether `exact_moments` knows the task.

    It does if functions are linear, covariates and noise state their moments, and the noise is
    symmetric.
    """
    return (
        isinstance(task.functions, LinearFunctions)
        and task.covariates.knows_moments
        and task.noise.knows_moments
        and task.noise.symmetric
    )


def exact_moments(task: RegressionTask) -> ContextMoments:
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

        E[e e^T ⊗ e' e'^T] = μ ⊗ μ + Σ_4 NN ⊗ (J M Λ M J^T) + tr(M Λ M Λ) Σ_2 NN ⊗ NN,

    the sums over the ways in which each factor takes one place of e and one of e'. A distractor is
    a token with W = 0 and Gaussian noise of its own; S sums over all examples and pairs of them.

    Raises:
        ValueError: if functions are not linear, noise is not symmetric, d + m is above 80 (the
            tensors have (d + m)⁴ entries), or moments are not stated or infinite.
    """
    task, functions = linear_regression(task)
    if not task.noise.symmetric:
        raise InputError(
            f"noise must be symmetric for exact moments; got {type(task.noise).__name__}: simulate "
            "them instead."
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
    clean = n - k
    M, X = covariates.second_moment(), _fourth_moments(covariates)

    mean, self_pair = _tokens(M, X, label)
    other_mean, other_self_pair = _tokens(M, X, distractor)
    NN = np.diag([0.0] * d + [1.0] * m)
    J = np.concatenate([np.eye(d), W])
    shared = J @ M @ prior @ M @ J.T
    pair = np.multiply.outer(mean, mean) + np.trace(M @ prior @ M @ prior) * _across(NN, NN)
    pair += _across(NN, shared) + _across(shared, NN)

    tensor = clean * self_pair + k * other_self_pair + clean * (clean - 1) * pair
    mixed = np.multiply.outer(mean, other_mean)
    tensor += clean * k * (mixed + mixed.transpose(2, 3, 0, 1))
    tensor += k * (k - 1) * np.multiply.outer(other_mean, other_mean)
    cross = clean * pair[:, :, :d, d:] + k * np.multiply.outer(other_mean, mean[:d, d:])
    return ContextMoments(
        inputs=R,
        query=M,
        target=mean[:d, d:],
        mean=svec(clean * mean + k * other_mean),
        second=svec(svec(tensor).transpose(2, 0, 1)),
        cross=np.moveaxis(svec(np.moveaxis(cross, (0, 1), (2, 3))), -1, 0),
        null_risk=float(np.trace(mean[d:, d:])),
    )


class _Label(NamedTuple):
    """The law of y given z: mean W̄ z, variance `constant + z^T growth z`, fourth cumulant."""

    mean: Float[np.ndarray, "m d"]
    growth: Float[np.ndarray, "d d"]
    constant: float
    fourth_cumulant: float


def _fourth_moments(covariates) -> Float[np.ndarray, "d d d d"]:
    """E[z ⊗ z ⊗ z ⊗ z], from the contraction F(G) that covariates state."""
    d, fourth_moment = covariates.dim, covariates.fourth_moment
    tensor = np.empty((d, d, d, d))
    for a in range(d):
        for b in range(a + 1):
            weight = np.zeros((d, d))
            weight[a, b] = weight[b, a] = 0.5 if a != b else 1.0
            tensor[a, b] = tensor[b, a] = fourth_moment(weight)
    return tensor


def _tokens(M, X, label: _Label) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "D D D D"]]:
    """E[e e^T] and E[e ⊗ e ⊗ e ⊗ e] of one token."""
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
    tensor = tensor + _placements(inner, NN) + _placements(NN, inner)
    tensor += squared * _placements(NN, NN)
    outputs = np.arange(d, d + m)
    tensor[outputs, outputs, outputs, outputs] += label.fourth_cumulant
    return J @ M @ J.T + (grown + constant) * NN, tensor


def _placements(first, second) -> Float[np.ndarray, "D D D D"]:
    """first_ab second_cd + first_ac second_bd + first_ad second_bc."""
    outer = np.multiply.outer(first, second)
    return outer + outer.transpose(0, 2, 1, 3) + outer.transpose(0, 2, 3, 1)


def _across(first, second) -> Float[np.ndarray, "D D D D"]:
    """first_ac second_bd + first_ad second_bc: each factor has a place in (a, b), one in (c, d)."""
    outer = np.multiply.outer(first, second)
    return outer.transpose(0, 2, 1, 3) + outer.transpose(0, 2, 3, 1)
