"""The moments of linear regression tasks, exactly."""

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import LinearFunctions, RegressionTask
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import svec

LARGEST = 80


def has_exact_moments(task: RegressionTask) -> bool:
    """Whether `exact_moments` knows the task: linear functions of covariates that state their second and fourth moments."""
    return isinstance(task.functions, LinearFunctions) and task.covariates.knows_moments


def exact_moments(task: RegressionTask) -> ContextMoments:
    """The moments of a task with linear functions, from `M = E[z z^T]` and `F(G) = E[(z^T G z) z z^T]` of its covariates.

    A label is `y = W z + ε`, the rows of W independent, each with covariance Λ around its row of the mean W̄, ε ~ N(0, σ² I). With
    `J = [I; W̄]`, `N = [0; I]` and `NN = N N^T` a token is `e = J z + N (…)`, and given z the bracket is Gaussian with variance
    `v = z^T Λ z + σ²`. With every sum over the different ways to give the four places to the factors,

        E[e e^T]         = J M J^T + E[v] NN                                                        =: μ
        E[e ⊗ e ⊗ e ⊗ e] = E[(J z)^⊗4] + Σ_6 (J E[v z z^T] J^T) ⊗ NN + E[v²] Σ_3 NN ⊗ NN

    and for two examples of one prompt, which share W,

        E[e e^T ⊗ e' e'^T] = μ ⊗ μ + Σ_4 NN ⊗ (J M Λ M J^T) + tr(M Λ M Λ) Σ_2 NN ⊗ NN,

    the sums over the ways in which each factor takes one place of e and one of e'. A distractor is a token with W = 0 and a
    noise of its own; S sums over all examples and pairs of them.

    Raises `ValueError` where functions are not linear, d + m is above 80 (the tensors have (d + m)⁴ entries), or moments do not
    exist.
    """
    functions = task.functions
    if not isinstance(functions, LinearFunctions):
        raise InputError(
            f"moments are known for LinearFunctions, not for {type(functions).__name__}; simulate them instead."
        )
    covariates, R = task.covariates.standardised()
    d, m = R.shape[1], task.outputs
    if d + m > LARGEST:
        raise InputError(
            f"d + m is {d + m}, and moments of all of S have (d + m)⁴ entries; give a task with d + m at most {LARGEST}."
        )
    W, covariance = functions.weight_mean() @ R, R.T @ functions.row_covariance() @ R
    noise, distraction = float(task.noise.variance), float(task.distractors.variance)
    k, n = int(task.distractors.count), task.context_length
    clean = n - k
    M, X = covariates.second_moment(), _fourth_moments(covariates)

    mean, own = _tokens(M, X, W, covariance, noise)
    other_mean, other_own = _tokens(M, X, np.zeros_like(W), np.zeros_like(covariance), distraction)
    NN = np.diag([0.0] * d + [1.0] * m)
    J = np.concatenate([np.eye(d), W])
    shared = J @ M @ covariance @ M @ J.T
    pair = np.multiply.outer(mean, mean) + np.trace(M @ covariance @ M @ covariance) * _across(NN, NN)
    pair += _across(NN, shared) + _across(shared, NN)

    tensor = clean * own + k * other_own + clean * (clean - 1) * pair
    tensor += clean * k * (np.multiply.outer(mean, other_mean) + np.multiply.outer(other_mean, mean))
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


def _fourth_moments(covariates) -> Float[np.ndarray, "d d d d"]:
    """E[z ⊗ z ⊗ z ⊗ z], from the contraction that covariates know."""
    d, fourth_moment = covariates.dim, covariates.fourth_moment
    tensor = np.empty((d, d, d, d))
    for a in range(d):
        for b in range(a + 1):
            weight = np.zeros((d, d))
            weight[a, b] = weight[b, a] = 0.5 if a != b else 1.0
            tensor[a, b] = tensor[b, a] = fourth_moment(weight)
    return tensor


def _tokens(M, X, W, covariance, noise) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "D D D D"]]:
    """E[e e^T] and E[e ⊗ e ⊗ e ⊗ e] of one token."""
    m, d = W.shape
    J = np.concatenate([np.eye(d), W])
    NN = np.diag([0.0] * d + [1.0] * m)
    weighted = np.einsum("abcd,cd->ab", X, covariance)
    spread = np.trace(covariance @ M) + noise
    squared = np.sum(weighted * covariance) + 2 * noise * np.trace(covariance @ M) + noise**2
    own = X
    for _ in range(4):  # J on every axis
        own = np.tensordot(own, J, axes=(0, 1))
    inner = J @ (weighted + noise * M) @ J.T
    own = own + _placements(inner, NN) + _placements(NN, inner) + squared * _placements(NN, NN)
    return J @ M @ J.T + spread * NN, own


def _placements(first, second) -> Float[np.ndarray, "D D D D"]:
    """first_ab second_cd + first_ac second_bd + first_ad second_bc."""
    outer = np.multiply.outer(first, second)
    return outer + outer.transpose(0, 2, 1, 3) + outer.transpose(0, 2, 3, 1)


def _across(first, second) -> Float[np.ndarray, "D D D D"]:
    """first_ac second_bd + first_ad second_bc: each factor has one place of (a, b) and one of (c, d)."""
    outer = np.multiply.outer(first, second)
    return outer.transpose(0, 2, 1, 3) + outer.transpose(0, 2, 3, 1)
