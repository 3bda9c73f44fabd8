"""The Bayes risk of linear functions: what no learner goes below."""

import jax
import numpy as np
from jaxtyping import Array, Key

from mesalens import random
from mesalens.checks import InputError
from mesalens.simulation import Estimate
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask

CONTEXTS = 1024
MOST_CONTEXTS = 262_144


def bayes_risk(task: RegressionTask, *, key: Key[Array, ""] | None = None, relative_error: float = 1e-3) -> Estimate:
    """E‖E[y_q | prompt] - y_q‖² for linear functions with a Gaussian prior and Gaussian noise.

    Given the inputs of a context, everything else is integrated exactly. With `Z = X L`, Λ = L L^T and M = E[x x^T],

        R = E_X[m tr(M Λ_X)] + m σ²,      Λ_X = L (I - Z^T (Z Z^T + σ² I)^+ Z) L^T,

    the posterior covariance of a row of W. Only the inputs are simulated, to the relative error that is asked for (of a millionth of the prior's risk, where it is below) or 2^18 contexts; where
    the noise is 0 and the context spans all inputs, the risk is 0. The prior mean does not matter.

    Raises `ValueError` where functions are not linear, or labels are replaced by distractors: the posterior is then another.
    """
    if not isinstance(task.functions, LinearFunctions) or int(task.distractors.count):
        raise InputError(
            "the Bayes risk is known for LinearFunctions without distractors; simulate the risk of a learner of your own instead."
        )
    covariates, R = task.covariates.standardised()
    noise, n, m = float(task.noise.variance), task.context_length, task.outputs
    eigenvalues, vectors = np.linalg.eigh(R.T @ task.functions.row_covariance() @ R)
    L = vectors * np.sqrt(np.maximum(eigenvalues, 0))
    weights = L.T @ covariates.second_moment() @ L
    key = random.unroll(random.key(0) if key is None else key)
    draw = jax.jit(lambda number: covariates.sample(jax.random.fold_in(key, number), (CONTEXTS, n)))
    if isinstance(
        covariates, Gaussian
    ):  # NumPy has them before XLA has compiled: half of the time of `mesalens optimum`
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        draw = lambda _: rng.standard_normal((CONTEXTS, n, covariates.dim))  # noqa: E731

    risks = np.empty(0)
    while True:
        zs = np.asarray(draw(np.uint32(risks.size)), np.float64) @ L
        gram = zs.swapaxes(1, 2) @ zs
        if noise > 1e-8 * np.trace(gram, axis1=1, axis2=2).max():
            left = np.trace(np.linalg.solve(np.eye(len(weights)) + gram / noise, weights), axis1=1, axis2=2)
        else:  # what the context leaves open are the directions that its inputs do not span
            eigenvalues, axes = np.linalg.eigh(gram)
            spanned = eigenvalues > 1e-13 * eigenvalues[:, -1:]  # what is smaller is rounding
            open_ = np.where(spanned, noise / np.where(spanned, eigenvalues + noise, 1), 1)
            left = np.einsum("cij,ik,ckj,cj->c", axes, weights, axes, open_, optimize=True)
        risks = np.append(risks, m * (left + noise))
        error = risks.std(ddof=1) / np.sqrt(risks.size)
        # Where the risk is 0, or nearly, its error is measured by that of the prior
        if error <= relative_error * max(risks.mean(), 1e-6 * m * np.trace(weights)) or risks.size >= MOST_CONTEXTS:
            return Estimate(float(risks.mean()), float(error))
