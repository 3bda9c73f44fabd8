"""One step of gradient descent on a context that was retrieved for its query."""

from mesalens.checks import InputError, count, non_negative
from mesalens.theory.one_step import OneStepRisk


def retrieval_risk(
    dim: int, context_length: int, relevance: float, noise_variance: float = 0.0
) -> OneStepRisk:
    r"""The risk of `ŷ = η/n Σ_i y_i x_i^T x_q` on a context retrieved for its query.

    Here `x_i = α x_q + √(1 - α²) z_i`, x_q and z_i are N(0, I), and w ~ N(0, I). With β² = 1 - α²,

    $$\text{null\_risk} = d + \sigma^2, \qquad \text{gain} = n d (\alpha^2 (d+1) + 1)$$

    $$\begin{aligned} \text{cost} =
    & \; n [\alpha^4 d (d+2) (d+4) + \alpha^2 \beta^2 d (d+2) (d+5) + \beta^4 d (d+2)] \\
    & + n (n-1) [\alpha^4 d (d+2) (d+4) + 2 \alpha^2 \beta^2 d (d+2) + \beta^4 d] \\
    & + \sigma^2 n [\alpha^2 d (d+2) + \beta^2 d]. \end{aligned}$$

    Compared with α = 0 the gain of an example grows by the factor 1 + α² (d+1). The best step of
    this kind is the best layer: the task is sign-symmetric and invariant under rotations, so that a
    multiple of s · x_q is optimal among all that is linear in S ⊗ x_q.

    Args:
        dim: d, the number of entries of a covariate.
        context_length: n, the number of examples in a prompt.
        relevance: α, from 0 to 1.
        noise_variance: σ², the variance of the label noise.

    Returns:
        The risk as a function of the step size.

    Raises:
        ValueError: If a size is below 1, α is not from 0 to 1, or σ² is negative.

    Source: the setting of Li, Rawat and Oymak (2024), arXiv 2407.10005; derived here.
    """
    d, n = count("dim", dim), count("context_length", context_length)
    if non_negative("relevance", relevance) > 1:
        raise InputError(f"relevance must be from 0 to 1; got {relevance!r}.")
    a, noise = relevance**2, non_negative("noise_variance", noise_variance)
    b = 1 - a
    sixth, fourth = d * (d + 2) * (d + 4), d * (d + 2)
    own = a**2 * sixth + a * b * fourth * (d + 5) + b**2 * fourth
    pairs = a**2 * sixth + 2 * a * b * fourth + b**2 * d
    return OneStepRisk(
        null_risk=d + noise,
        gain=n * d * (a * (d + 1) + 1),
        cost=n * own + n * (n - 1) * pairs + noise * n * (a * fourth + b * d),
        context_length=n,
    )
