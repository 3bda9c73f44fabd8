"""The exact risk of one step of gradient descent on centred covariates, the limit of a pair of softmax heads."""

import numpy as np

from mesalens.checks import InputError
from mesalens.tasks import Gaussian, IndependentCovariates, LinearFunctions, RegressionTask, Sphere, Task
from mesalens.theory.one_step import OneStepRisk


def centred_step_risk(task: Task) -> OneStepRisk:
    """The risk of `ŷ = η/n Σ_i y_i (x_i - x̄)^T x_q`, for linear functions of covariates with mean zero.

    The step sees `C = Σ_i (x_i - x̄) (x_i - x̄)^T` and `Σ_i ε_i (x_i - x̄)`. With `M = E[x x^T]`, `F(G) = E[(x^T G x) x x^T]`, `V = E[W^T W]`,
    noise variance σ², and E[x] = 0, on account of which third moments do not matter,

        E[C]     = (n-1) M
        E[C V C] = (n-1)/n [(n-1) F(V) + (n² - 2n + 2) M V M + tr(V M) M]

        null_risk = tr(M V) + m σ²,    gain = (n-1) tr(M V M),    cost = tr(M E[C V C]) + (n-1) m σ² tr(M²).

    For x ~ N(0, Σ), C is Wishart with n - 1 degrees of freedom and E[C V C] = n (n-1) M V M + (n-1) tr(V M) M: the best risk is exactly
    that of a step on n - 1 examples that are not centred (`one_step_risk`), at n/(n-1) times its step size. In general

        E[C V C] = E[S V S] of n - 1 examples + (n-1)/n [2 M V M + tr(V M) M - F(V)],

    so that centring costs less than an example where tails are heavier than a Gaussian's, more where they are lighter.

    Raises `ValueError` where the task is no regression, functions are not linear, there are distractors, or covariates have a mean
    other than zero or one that is not known.

    Source: derived here. It is what the two heads of `softmax_descent_transformer` come to as their scale goes to 0.
    """
    if not isinstance(task, RegressionTask):
        raise InputError(
            f"the exact risk of a centred step is known for a RegressionTask, not for {type(task).__name__}; simulate it instead."
        )
    functions, covariates = task.functions, task.covariates
    if not isinstance(functions, LinearFunctions):
        raise InputError(
            f"the exact risk is known for LinearFunctions, not for {type(functions).__name__}; simulate it instead."
        )
    if int(task.distractors.count):
        raise InputError("the exact risk of a centred step is not known with distractors; simulate it instead.")
    independent = isinstance(covariates, IndependentCovariates) and covariates.central_moments()[0] == 0
    if not (independent or isinstance(covariates, Gaussian | Sphere)):
        raise InputError(
            f"the exact risk of a centred step is known for covariates of mean zero, not for {type(covariates).__name__}; simulate it "
            "instead."
        )
    n, m = task.context_length, task.outputs
    M = covariates.second_moment()
    V = m * functions.row_covariance() + functions.weight_mean().T @ functions.weight_mean()
    MVM, noise = M @ V @ M, float(task.noise.variance)
    scatter = (n - 1) / n * ((n - 1) * covariates.fourth_moment(V) + (n**2 - 2 * n + 2) * MVM + np.trace(V @ M) * M)
    return OneStepRisk(
        null_risk=float(np.trace(M @ V) + m * noise),
        gain=float((n - 1) * np.trace(MVM)),
        cost=float(np.trace(M @ scatter) + (n - 1) * m * noise * np.trace(M @ M)),
        context_length=n,
    )
