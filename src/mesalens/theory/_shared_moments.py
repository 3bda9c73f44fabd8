"""Exact moments where prompts share more than a Gaussian function: pools, correlated inputs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import CorrelatedGaussian, FinitePool, LinearFunctions, RegressionTask
from mesalens.theory._linear_moments import fourth_moments, placements
from mesalens.theory.linear_prediction import whitening
from mesalens.theory.moments import ContextMoments, JointMoments
from mesalens.theory.symmetric import svec

LARGEST = {False: 48, True: 17}
"""The largest d + m, by whether inputs are correlated: then tensors have d² times the entries."""

AT_ONCE = 4096
"""Functions of a pool whose products are held at once."""


def has_shared_moments(task: RegressionTask) -> bool:
    """Whether `shared_moments` knows the task.

    Functions are a pool, or linear with correlated inputs; inputs and noise define their moments,
    the noise is symmetric, independent of x, and Gaussian if inputs are correlated; there are no
    distractors; and d + m is not above `LARGEST`.
    """
    correlated = isinstance(task.covariates, CorrelatedGaussian)
    linear = isinstance(task.functions, LinearFunctions)
    return (
        (isinstance(task.functions, FinitePool) or (linear and correlated))
        and task.covariates.knows_moments
        and task.noise.knows_moments
        and task.noise.symmetric
        and task.noise.homoscedastic
        and (task.noise.gaussian or not correlated)
        and int(task.distractors.count) == 0
        and task.dim + task.outputs <= LARGEST[correlated]
    )


def shared_moments(task: RegressionTask) -> ContextMoments:
    """The exact moments of a task with a pool of functions, or with correlated inputs.

    A token is linear in `u = (z, ε)`: its first entries are z, and `y_k = v_k · u` with
    `v_k = (R^T w_k, n_k)`, n_k a unit vector, the same in all examples of a prompt. So moments of S
    are moments of u, in which W does not occur, contracted with `E[v ⊗ … ⊗ v]`, up to four factors,
    at the places of labels. A pool enters only through these means, `1/M Σ_j v_j ⊗ … ⊗ v_j`, and
    a Gaussian prior through a finite pool with the same means.

    A sum over examples is n times a moment of one and n (n - 1) times one of two. Correlated inputs
    are Gaussian, and a moment is a sum over all pairings of its factors (Isserlis).

    Args:
        task: Regression with functions from a pool, or linear functions of correlated inputs.

    Returns:
        The moments, in float64.

    Raises:
        ValueError: If d + m is above 48, or above 17 for correlated inputs.
    """
    correlated = isinstance(task.covariates, CorrelatedGaussian)
    n, m, limit = task.context_length, task.outputs, LARGEST[correlated]
    if task.dim + m > limit:
        raise InputError(f"d + m must be at most {limit} for exact moments; got {task.dim + m}.")
    noise = float(task.noise.conditional_variance(task.dim)[0]) * np.eye(m)
    joint = None
    if isinstance(task.covariates, CorrelatedGaussian):
        R, covariances = _covariances(task.covariates, noise)
        own, query = covariances[0, 0], covariances[2, 2]

        def over_examples(*of_query: int) -> Float[np.ndarray, "..."]:
            one = isserlis((0, 0, 0, 0, *of_query), covariances)
            return n * one + n * (n - 1) * isserlis((0, 0, 1, 1, *of_query), covariances)

        contexts, joint = over_examples(), over_examples(2, 2)
        with_query = n * isserlis((0, 0, 2, 2), covariances)
    else:
        covariates, R = task.covariates.standardised()
        query = covariates.second_moment()
        own = scipy.linalg.block_diag(query, noise)
        fourth = np.pad(fourth_moments(covariates), (0, m)) + placements(
            own * (np.arange(len(own)) < len(query)), np.pad(noise, (len(query), 0))
        )
        fourth += placements(*[np.pad(noise, (len(query), 0))] * 2) / 2
        labels = np.arange(len(query), len(own))
        fourth[labels, labels, labels, labels] += task.noise.fourth_cumulant()
        contexts = n * fourth + n * (n - 1) * np.multiply.outer(own, own)
        with_query = n * np.multiply.outer(own, query)

    prior = _powers(*_points(task.functions, R))  # pyright: ignore
    r = len(query)
    of_W = prior[2][:, :r, :, :r]
    cross = _in_tokens(with_query, 2, prior, target=True)
    with_query = _in_tokens(with_query, 2, prior)
    if joint is not None:
        joint = _in_tokens(joint, 4, prior)
        pairs = svec(np.moveaxis(svec(joint.transpose(4, 5, 2, 3, 0, 1)), -1, 2))
        joint = JointMoments(pairs.transpose(2, 0, 3, 1), svec(with_query.transpose(2, 3, 0, 1)).T)
    return ContextMoments(
        inputs=R,
        query=query,
        target=query @ prior[1][:, :r].T,
        mean=svec(_in_tokens(n * own, 2, prior)),
        second=svec(svec(_in_tokens(contexts, 4, prior)).T),
        cross=np.moveaxis(svec(cross.transpose(2, 3, 0, 1)), -1, 0),
        null_risk=float(np.einsum("kakb,ab->", of_W, query) + np.trace(noise)),
        joint=joint,
    )


def _covariances(
    covariates: CorrelatedGaussian, noise: Float[np.ndarray, "m m"]
) -> tuple[Float[np.ndarray, "d r"], Mapping[tuple[int, int], Float[np.ndarray, "_ _"]]]:
    """R, and the covariances of u_1, u_2 and z_q, numbered 0, 1 and 2, in coordinates `x = R z`."""
    H = whitening(covariates.second_moment())
    m = len(noise)
    own = scipy.linalg.block_diag(np.eye(len(H)), noise)
    between = np.pad(H @ covariates.between() @ H.T, (0, m))
    query = np.pad(H @ covariates.with_query() @ H.T, ((0, m), (0, 0)))
    pairs = {(0, 0): own, (1, 1): own, (2, 2): np.eye(len(H)), (0, 1): between}
    return np.linalg.pinv(H), pairs | {(0, 2): query, (1, 2): query}


def isserlis(
    factors: Sequence[int], covariances: Mapping[tuple[int, int], Float[np.ndarray, "_ _"]]
) -> Float[np.ndarray, "..."]:
    """E[g_1 ⊗ g_2 ⊗ …] of Gaussian vectors of mean 0: Σ over pairings of Π Cov(g_i, g_j).

    Args:
        factors: The numbers of the vectors, in ascending order; a vector may occur repeatedly.
        covariances: By pairs of numbers, the smaller first.
    """
    letters = "abcdef"[: len(factors)]
    total: Float[np.ndarray, ...] = np.zeros(())
    for pairing in _pairings(range(len(factors))):
        names = ",".join(letters[i] + letters[j] for i, j in pairing)
        pairs = (covariances[factors[i], factors[j]] for i, j in pairing)
        total = total + np.einsum(f"{names}->{letters}", *pairs)
    return total


def _pairings(places: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    if not places:
        yield []
        return
    first, *rest = places
    for number, other in enumerate(rest):
        for others in _pairings(rest[:number] + rest[number + 1 :]):
            yield [(first, other), *others]


def _points(
    functions: FinitePool | LinearFunctions, R: Float[np.ndarray, "d r"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M m r"]]:
    """Shares and weights `W R` of a pool, or of one with the moments of a prior up to the fifth.

    For N(0, I) in k dimensions the points are 0, ±√3 e_i and √3 (±e_i ± e_j), with the shares
    (k² - 7k + 18)/18, (4 - k)/18 and 1/36: a cubature rule of degree five.
    """
    if isinstance(functions, FinitePool):
        pool = functions.matrices() @ R
        return np.full(len(pool), 1 / len(pool)), pool
    k = functions.outputs * functions.dim
    eye, pairs = np.eye(k), [*itertools.combinations(range(k), 2)]
    corners = [eye[i] * s + eye[j] * t for i, j in pairs for s in (1, -1) for t in (1, -1)]
    shares = [(k**2 - 7 * k + 18) / 18] + [(4 - k) / 18] * 2 * k + [1 / 36] * len(corners)
    points = np.sqrt(3) * np.stack([np.zeros(k), *eye, *-eye, *corners])
    eigenvalues, axes = np.linalg.eigh(functions.row_covariance())
    root = axes * np.sqrt(np.maximum(eigenvalues, 0))
    weights = points.reshape(-1, functions.outputs, functions.dim) @ root.T
    return np.asarray(shares), (weights + functions.weight_mean()) @ R


def _powers(
    shares: Float[np.ndarray, " M"], weights: Float[np.ndarray, "M m r"]
) -> list[Float[np.ndarray, "..."]]:
    """E[v ⊗ … ⊗ v] for 0 to 4 factors, of which each has the axes (output, entry of u)."""
    m = weights.shape[1]
    shape = m, m + weights.shape[2]
    sums = [np.zeros((shape[0] * shape[1]) ** factors) for factors in range(5)]
    for start in range(0, len(weights), AT_ONCE):
        part, share = weights[start : start + AT_ONCE], shares[start : start + AT_ONCE]
        units = np.broadcast_to(np.eye(m), (len(part), m, m))
        v = np.concatenate([part, units], axis=2).reshape(len(part), -1)
        squares = np.einsum("ja,jb->jab", v, v).reshape(len(part), -1)
        scaled = squares.T * share
        each = share.sum(), share @ v, scaled.sum(1), scaled @ v, scaled @ squares
        for total, value in zip(sums, each, strict=True):
            total += np.ravel(value)
    return [total.reshape(shape * factors) for factors, total in enumerate(sums)]


def _in_tokens(
    moment: Float[np.ndarray, "..."],
    places: int,
    prior: Sequence[Float[np.ndarray, "..."]],
    target: bool = False,
) -> Float[np.ndarray, "..."]:
    """A moment of tokens from one of u, whose first axes are those of tokens.

    With `target` the last axis, of z_q, becomes that of the label of the query without its noise.
    """
    m, size = prior[1].shape
    r, axes = size - m, "abcdefgh"[: moment.ndim]
    result = np.zeros((*moment.shape[:-1], m) if target else moment.shape)
    for labelled in itertools.product((False, True), repeat=places):
        chosen = [axes[place] for place in range(places) if labelled[place]]
        factors = prior[len(chosen) + target]
        if target:
            chosen, factors = [*chosen, axes[-1]], factors[..., :r]
        names = "".join(letter.upper() + letter for letter in chosen)
        output = "".join(letter.upper() if letter in chosen else letter for letter in axes)
        source = tuple(slice(None) if each else slice(r) for each in labelled)
        goal = tuple(slice(r, None) if each else slice(r) for each in labelled)
        terms = np.einsum(f"{axes},{names}->{output}", moment[source], factors, optimize=True)
        result[goal] = terms
    return result
