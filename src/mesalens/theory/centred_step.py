"""The exact risk of one step on centred covariates, the limit of a pair of softmax heads."""

import numpy as np

from mesalens.checks import InputError
from mesalens.tasks import Gaussian, IndependentCovariates, Sphere, Task
from mesalens.theory._requirements import linear_regression
from mesalens.theory.one_step import OneStepRisk, noise_moments


def centred_step_risk(task: Task) -> OneStepRisk:
    r"""The exact risk of one step on centred covariates, `ŷ = η/n Σ_i y_i (x_i - x̄)^T x_q`.

    The step sees `C = Σ_i (x_i - x̄) (x_i - x̄)^T` and `Σ_i ε_i (x_i - x̄)`. With `M = E[x x^T]`,
    `F(G) = E[(x^T G x) x x^T]`, `V = E[W^T W]`, noise of variance v(x), and E[x] = 0, because of
    which third moments do not matter,

    $$E[C] = (n-1) M$$

    $$E[C V C] = \frac{n-1}{n} \left[(n-1) F(V)
    + (n^2 - 2n + 2) M V M + \operatorname{tr}(V M) M\right]$$

    $$N = E\Big[\sum_i v(x_i) (x_i - \bar x) (x_i - \bar x)^T\Big]
    = \frac{n-1}{n} \left[(n-1) E[v(x) x x^T] + E[v(x)] M\right]$$

    and the coefficients of the risk are

    $$\text{null\_risk} = \operatorname{tr}(M V) + m E[v(x)], \quad
    \text{gain} = (n-1) \operatorname{tr}(M V M)$$

    $$\text{cost} = \operatorname{tr}(M (E[C V C] + m N)).$$

    For x ~ N(0, Σ), C is Wishart with n - 1 degrees of freedom and `E[C V C] = n (n-1) M V M +
    (n-1) tr(V M) M`. With noise of constant variance the best risk is then exactly that of a step
    on n - 1 examples that are not centred ([`one_step_risk`][mesalens.theory.one_step_risk]), at
    n/(n-1) times its step size. In general `E[C V C]` is `E[S V S]` of n - 1 examples plus `(n-1)/n
    [2 M V M + tr(V M) M - F(V)]`, so that centring costs less than one example if tails are heavier
    than those of a Gaussian, and more if they are lighter.

    Args:
        task: Linear regression without distractors.

    Returns:
        The risk as a function of the step size.

    Raises:
        ValueError: If functions are not linear, there are distractors, noise does not define its
            moments, or covariates are not known to have mean zero.

    Source: derived here. The two heads of `softmax_descent_transformer` approach this step as their
    scale goes to 0.
    """
    task, functions = linear_regression(
        task,
        "mesalens.analysis.risk(CentredDescent(step_size), task, key) simulates the risk",
        distractors=False,
    )
    covariates = task.covariates
    independent = (
        isinstance(covariates, IndependentCovariates) and covariates.central_moments()[0] == 0
    )
    if not (independent or isinstance(covariates, Gaussian | Sphere)):
        raise InputError(
            "covariates must be known to have mean zero for the exact risk of a centred step; got "
            f"{type(covariates).__name__}: simulate it instead."
        )
    n, m = task.context_length, task.outputs
    M = covariates.second_moment()
    mean = functions.weight_mean()
    V = m * functions.row_covariance() + mean.T @ mean
    MVM = M @ V @ M
    noise, noise_label = noise_moments(task)
    scatter = (n - 1) * covariates.fourth_moment(V) + (n**2 - 2 * n + 2) * MVM + np.trace(V @ M) * M
    labels = m * ((n - 1) * noise_label + noise * M)
    return OneStepRisk(
        null_risk=float(np.trace(M @ V) + m * noise),
        gain=float((n - 1) * np.trace(MVM)),
        cost=float((n - 1) / n * np.trace(M @ (scatter + labels))),
        context_length=n,
    )
