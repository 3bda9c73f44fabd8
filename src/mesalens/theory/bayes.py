"""The Bayes risk of linear functions."""

import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.checks import InputError, positive
from mesalens.simulation import Estimate
from mesalens.tasks import Covariates, Gaussian, Task
from mesalens.theory._requirements import linear_regression

CONTEXTS = 1024
FEWEST_CONTEXTS = 32
MOST_CONTEXTS = 262_144
MOST_NUMBERS = 2**24
"""Numbers drawn at once: contexts × examples × dimension."""


def bayes_risk(
    task: Task, *, key: Key[Array, ""] | None = None, relative_error: float = 1e-3
) -> Estimate:
    r"""The Bayes risk of a task, the smallest risk that a learner can have.

    It is that of the posterior mean, `E‖E[y_q | prompt] - y_q‖²`, and known for linear functions
    with a Gaussian prior and Gaussian noise. Given the inputs of a context, everything else is
    integrated exactly. With `Z = X L`, Λ = L L^T, the noise variances `D = diag(v(x_1), …, v(x_n))`
    and `M = E[x x^T]`,

    $$R = E_X[m \operatorname{tr}(M \Lambda_X)] + m E[v(x)], \qquad
    \Lambda_X = L (I - Z^T (Z Z^T + D)^+ Z) L^T,$$

    where Λ_X is the posterior covariance of a row of W; the prior mean does not matter. It depends
    on the context only through `Z^T D^-1 Z`. For Gaussian inputs and noise of constant variance
    this matrix is drawn directly (Wishart, by Bartlett's decomposition), so that the cost is
    independent of n. Otherwise inputs are drawn and summed in pieces of bounded size. Without noise
    the risk is 0 if the context spans all inputs.

    Args:
        task: Linear regression without distractors.
        key: A random key for the contexts. By default `mesalens.random.key(0)`.
        relative_error: Simulation stops at this ratio of standard error and risk, where risks
            below a millionth of the prior's count as that, or after 2^18 contexts.

    Returns:
        The risk with its standard error.

    Raises:
        ValueError: If functions are not linear, noise is not Gaussian, or there are distractors.

    Examples:
        With three examples in five dimensions and no noise, two directions remain unknown:

        >>> from mesalens import tasks, theory
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=3
        ... )
        >>> print(f"{theory.bayes_risk(task).value:.3f}")
        2.000
    """
    positive("relative_error", relative_error)
    task, functions = linear_regression(
        task,
        "the Bayes risk of others is not known, and mesalens.analysis.risk simulates that of a "
        "learner, which is at least as large",
        distractors=False,
    )
    if not task.noise.gaussian:
        raise InputError(
            "noise must be Gaussian for the Bayes risk, as the posterior of W is not Gaussian "
            f"otherwise; got {type(task.noise).__name__}."
        )
    covariates, R = task.covariates.standardised()
    constant, growth = task.noise.conditional_variance(task.dim)
    constant, growth = float(constant), R.T @ growth @ R
    noise = constant + float(np.trace(growth @ covariates.second_moment()))
    m = task.outputs
    eigenvalues, vectors = np.linalg.eigh(R.T @ functions.row_covariance() @ R)
    L = vectors * np.sqrt(np.maximum(eigenvalues, 0))
    weights = L.T @ covariates.second_moment() @ L

    def scaled(zs: Float[np.ndarray, "c n r"]) -> Float[np.ndarray, "c n r"]:
        """Inputs times √(noise / v(x)), in units of which every label has the mean variance."""
        variances = constant + np.sum((zs @ growth) * zs, axis=-1)
        return zs * np.sqrt(noise / variances)[..., None]

    key = random.unroll(random.key(0) if key is None else key)
    grams = _grams(covariates, task.context_length, L, scaled if growth.any() else None, key)
    risks = np.empty(0)
    while True:
        gram = next(grams)
        if noise > 1e-8 * np.trace(gram, axis1=1, axis2=2).max():
            open_ = np.linalg.solve(np.eye(len(weights)) + gram / noise, weights)
            left = np.trace(open_, axis1=1, axis2=2)
        else:  # what the context leaves open are the directions that its inputs do not span
            eigenvalues, axes = np.linalg.eigh(gram)
            spanned = eigenvalues > 1e-13 * eigenvalues[:, -1:]  # what is smaller is rounding
            open_ = np.where(spanned, noise / np.where(spanned, eigenvalues + noise, 1), 1)
            left = np.einsum("cij,ik,ckj,cj->c", axes, weights, axes, open_, optimize=True)
        risks = np.append(risks, m * (left + noise))
        error = risks.std(ddof=1) / np.sqrt(risks.size)
        # Where the risk is 0, or nearly, its error is measured by that of the prior
        least = 1e-6 * m * np.trace(weights)
        if error <= relative_error * max(risks.mean(), least) or risks.size >= MOST_CONTEXTS:
            return Estimate(float(risks.mean()), float(error))


def _grams(
    covariates: Covariates, n: int, L: np.ndarray, scaled: Callable | None, key: Key[Array, ""]
) -> Iterator[Float[np.ndarray, "contexts r r"]]:
    """`L^T Z^T Z L` of many contexts of n inputs z, again and again; `scaled` maps the inputs."""
    r, gaussian = covariates.dim, isinstance(covariates, Gaussian)
    wishart = gaussian and scaled is None and n > r
    rows = r if wishart else n
    contexts = int(np.clip(MOST_NUMBERS // (rows * r), FEWEST_CONTEXTS, CONTEXTS))
    piece = rows if wishart else max(1, min(n, MOST_NUMBERS // (contexts * r)))
    # NumPy has drawn Gaussians before XLA has compiled: half of the time of `mesalens optimum`
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    sample = jax.jit(lambda key, shape: covariates.sample(key, shape), static_argnums=1)
    numbers = itertools.count(0, CONTEXTS)

    def draw(length: int) -> Float[np.ndarray, "contexts length r"]:
        if wishart:
            root, above = np.zeros((contexts, r, r)), np.triu_indices(r, 1)
            root[:, *np.diag_indices(r)] = np.sqrt(rng.chisquare(n - np.arange(r), (contexts, r)))
            root[:, *above] = rng.standard_normal((contexts, len(above[0])))
            return root
        if gaussian:
            return rng.standard_normal((contexts, length, r))
        piece_key = jax.random.fold_in(key, np.uint32(next(numbers)))
        return np.asarray(sample(piece_key, (contexts, length)), np.float64)

    while True:
        gram = np.zeros((contexts, r, r))
        for start in range(0, rows, piece):
            zs = draw(min(piece, rows - start))
            zs = (zs if scaled is None else scaled(zs)) @ L
            gram += zs.swapaxes(1, 2) @ zs
        yield gram
