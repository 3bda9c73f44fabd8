"""What a layer loses that does not read the mean of a prompt's inputs."""

from mesalens.checks import count, non_negative


def no_descriptor_limit(dim: int, mean_variance: float) -> float:
    r"""The risk of the best layer on x ~ N(μ, I), μ ~ N(0, τ I) drawn per prompt, as n → ∞.

    It holds without noise and for w ~ N(0, I). The context then gives `T = I + μ μ^T` exactly and
    the layer predicts `η x_q^T T w`. With `E_k = E[x_q^T T^k x_q] = d - 1 + E[(1 + ‖μ‖²)^(k+1)]`,
    as `E[x_q x_q^T | μ] = T`,

    $$R = d (1 + \tau) - \frac{E_1^2}{E_2} \quad \text{at } \eta = \frac{E_1}{E_2}.$$

    A layer that reads μ in its tokens subtracts it, `ŷ = x_q^T 1/n Σ_i y_i (x_i - μ)`, and has risk
    0 in that limit. Moments of ‖μ‖² = τ χ²_d are τ d, τ² d (d+2) and τ³ d (d+2) (d+4).

    Args:
        dim: d, the number of entries of a covariate.
        mean_variance: τ, the variance of an entry of μ.

    Returns:
        The risk R.

    Source: the setting of Huang and Ge (ICLR 2025); derived here.
    """
    d, t = count("dim", dim), non_negative("mean_variance", mean_variance)
    first, second, third = t * d, t**2 * d * (d + 2), t**3 * d * (d + 2) * (d + 4)
    gain = d - 1 + 1 + 2 * first + second
    cost = d - 1 + 1 + 3 * first + 3 * second + third
    return d * (1 + t) - gain**2 / cost
