"""What a user's class states of its moments, compared with its draws once, when it is built.

Theory relies on what a class states: with a wrong factor it would prove, exactly, what is false.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks._own_parts import is_ours, is_traced

DRAWS = 2**16
MOST_NUMBERS = 2**22
"""The largest number of entries of all draws together."""
ERRORS = 8.0
"""The largest difference, in standard errors: chance gives it once in 10¹⁵ times."""
ROUNDING = 1e-3
"""The difference that is always allowed, as a share of the mean of the absolute terms."""
HEAVY = 0.3
"""Where the largest thousandth of the terms has this share of their sum, draws show nothing.

Of lognormal terms with less than it, 150 times 65,536 draws had means up to 4.8 of their standard
errors away; with 0.4 it was 6.7. It is 0.18 for the fourth powers of a Laplace law.
"""

_compared: set[Any] = set()


def _compared_once(compare: Callable[..., None]) -> Callable[..., None]:
    """Compares a user's part, beside others, once; and not while JAX traces its numbers."""

    @functools.wraps(compare)
    def once(part: Any, *others: Any) -> None:
        if is_ours(part) or is_traced((part, others)):
            return
        leaves, structure = jax.tree.flatten((part, others))
        known = structure, tuple(np.asarray(leaf).tobytes() for leaf in leaves)
        try:
            if known in _compared:
                return
        except TypeError:  # a static field that cannot be hashed
            compare(part, *others)
        else:
            compare(part, *others)
            _compared.add(known)

    return once


@_compared_once
def require_covariate_moments(covariates: Any) -> None:
    """Checks `second_moment` and `fourth_moment` of a user's covariates.

    Args:
        covariates: The covariates.

    Raises:
        ValueError: If one has another shape, or differs from the mean of 65,536 draws by more than
            8 standard errors.
    """
    if not covariates.knows_moments or covariates.dim**2 > MOST_NUMBERS:  # matrices fill memory
        return
    xs = _draws(covariates, 2)[:, 0]
    if hasattr(covariates, "central_moments"):
        _require_central_moments(covariates, xs)
    a, b = np.random.default_rng(0).standard_normal((2, covariates.dim))
    weight = np.outer(a, b) + np.outer(b, a) + np.eye(covariates.dim)
    quadratic = np.einsum("bi,ij,bj->b", xs, weight, xs)
    for name, order, moment, factor in (
        ("second_moment()", 4, covariates.second_moment, np.ones(len(xs))),
        ("fourth_moment(G)", 8, lambda: covariates.fourth_moment(weight), quadratic),
    ):
        if covariates.finite_moments > order:  # so that the mean has a standard error
            stated, shape = np.asarray(moment()), 2 * (covariates.dim,)
            where = f"{type(covariates).__name__}.{name}"
            if stated.shape != shape:
                raise InputError(f"{where} must have shape {shape}; it has {stated.shape}.")
            _require_matrix(where, stated, factor, xs)


def _require_central_moments(covariates: Any, xs: Float[np.ndarray, "b d"]) -> None:
    """Compares what a class of independent coordinates states, under the names that it uses."""
    where, stated = f"{type(covariates).__name__}.central_moments()", covariates.central_moments()
    if np.shape(stated) != (4,):
        raise InputError(
            f"{where} must return four numbers, the mean and the central moments c2, c3 and c4; "
            f"it returned {stated!r}."
        )
    centred = xs[:, 0] - stated[0]
    _require_mean(f"{where}: the mean", stated[0], xs[:, 0], np.abs(xs[:, 0]) + np.sqrt(stated[1]))
    for power in (2, 3, 4):
        if covariates.finite_moments > 2 * power:
            terms = centred**power
            _require_mean(f"{where}: c{power}", stated[power - 1], terms, np.abs(terms))


@_compared_once
def require_noise_moments(noise: Any, covariates: Any, outputs: int) -> None:
    """Checks `conditional_variance` and `fourth_cumulant` of a user's noise.

    Args:
        noise: The noise.
        covariates: The inputs, on which it may depend.
        outputs: m, the number of entries of a label.

    Raises:
        ValueError: If its draws contradict them, do not have mean zero, or are skewed although it
            states that it is symmetric.
    """
    if not noise.knows_moments or noise.finite_moments <= 4:
        return
    xs = _draws(covariates, 3)
    with jax.ensure_compile_time_eval():
        labels = jnp.zeros((*xs.shape[:2], outputs))
        noisy = noise(jax.random.key(4), labels, jnp.asarray(xs, jnp.float32))
    x, e = xs[:, 0], np.asarray(noisy, np.float64)[:, 0, 0]
    constant, growth = noise.conditional_variance(covariates.dim)
    variance = float(constant) + np.einsum("bi,ij,bj->b", x, np.asarray(growth), x)
    name, lengths = type(noise).__name__, (x**2).sum(axis=1)
    _require_mean(f"the mean of {name}", 0.0, e, np.abs(e))
    if noise.symmetric and noise.finite_moments > 6:
        where = f"{name} states that it is symmetric; the mean of its cube"
        _require_mean(where, 0.0, e**3, np.abs(e) ** 3)
    where = f"the mean of {name}.conditional_variance"
    for words, c in (("", np.ones(len(x))), (" × |x|²", lengths)):
        mean = float((variance * c).mean())
        _require_mean(where + words, mean, (e**2 - variance) * c + mean, e**2 * c)
    if noise.finite_moments > 8:
        cumulant = noise.fourth_cumulant()
        _require_mean(f"{name}.fourth_cumulant()", cumulant, e**4 - 3 * variance**2, e**4)


def _draws(covariates: Any, seed: int) -> Float[np.ndarray, "b 1 d"]:
    number = min(DRAWS, max(MOST_NUMBERS // covariates.dim, 1024))
    with jax.ensure_compile_time_eval():
        return np.asarray(covariates.sample(jax.random.key(seed), (number, 1)), np.float64)


def _require_matrix(where: str, stated: np.ndarray, factor: np.ndarray, xs: np.ndarray) -> None:
    """Checks that E[c x xᵀ] is what is stated."""
    mean = (xs * factor[:, None]).T @ xs / len(xs)
    square = (xs * factor[:, None]).T ** 2 @ xs**2 / len(xs)
    error = np.sqrt(np.maximum(square - mean**2, 0) / len(xs))
    _compare(where, stated, mean, error, np.abs(factor) * (xs**2).mean(axis=1))


def _require_mean(where: str, stated: float, terms: np.ndarray, sizes: np.ndarray) -> None:
    """Checks that the mean of terms, of the given absolute sizes, is what is stated."""
    mean, error = terms.mean(), terms.std() / np.sqrt(len(terms))
    _compare(where, np.asarray(stated), mean, error, sizes)


def _compare(where: str, stated: np.ndarray, mean: Any, error: Any, sizes: np.ndarray) -> None:
    if np.sort(sizes)[-(len(sizes) // 1000) :].sum() > HEAVY * sizes.sum():
        return
    beyond = np.abs(mean - stated) - ERRORS * error - ROUNDING * sizes.mean()
    if not (beyond <= 0).all():
        worst = np.unravel_index(np.argmax(beyond), beyond.shape)
        entry = f"[{', '.join(map(str, worst))}]" if worst else ""
        drawn = f"{np.asarray(mean)[worst]:.4g} ± {np.asarray(error)[worst]:.2g}"
        raise InputError(
            f"{where}{entry} is {stated[worst]:.4g}, but {len(sizes):,} draws give {drawn}; one of "
            "the two is wrong."
        )
