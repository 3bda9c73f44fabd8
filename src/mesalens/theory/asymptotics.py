"""The risk of a layer that is fitted to a finite set of prompts, in the limit of large d."""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from mesalens.checks import non_negative, positive


class AsymptoticRisk(NamedTuple):
    """Limits of the risk E(ŷ - y_query)².

    Attributes:
        new_tasks: The risk on new tasks.
        pool: The risk on the pool of tasks that the prompts came from.
    """

    new_tasks: float
    pool: float

    @property
    def gap(self) -> float:
        """How much lower the risk is on the pool, which the layer has memorised."""
        return self.new_tasks - self.pool


def asymptotic_risk(
    context: float, diversity: float, prompts: float, noise: float, ridge: float = 0.0
) -> AsymptoticRisk:
    r"""Limits of the risks of a layer `ŷ = tr(Γ H^T)` that ridge regression fits to N prompts.

    $$x \sim N(0, I/d), \quad w \text{ one of } K \text{ tasks from } N(0, I), \quad
    y = w \cdot x + \text{noise}, \quad \ell \text{ examples},$$

    $$H = x_q h^T, \qquad
    h = \Big(\frac{d}{\ell} \sum_i y_i x_i, \; \frac{1}{\ell} \sum_i y_i^2\Big)$$

    $$\Gamma = \operatorname{argmin} \frac{1}{N} \sum (\operatorname{tr}(\Gamma H^T) - y_q)^2
    + \frac{\lambda}{d} \|\Gamma\|^2$$

    as d → ∞ with α = ℓ/d, κ = K/d and τ = N/d² fixed. In this limit only the mean square of the
    features matters: I/d ⊗ B with `B = x* I + R`, `x* = (1 + ρ)/α`, and R of the K tasks, whose
    spectrum is that of Marchenko and Pastur:

    $$m(z) = \lim \frac{1}{d} \operatorname{tr}(R + z)^{-1} =
    \frac{2}{b + \sqrt{b^2 + 4 z / \kappa}}, \qquad b = z + 1 - \frac{1}{\kappa}.$$

    The best Γ for the pool is `R B^-1`, and ridge regression with d² unknowns has the deterministic
    equivalent `R (B + ν)^-1`, where `ν - λ = ν/τ · tr B (B + ν)^-1 / d`. With `z = x* + ν` and
    `t = tr R² (R + z)^-2 / d = 1 - 2 z m - z² m'` the risks on the pool and on new tasks are

    $$E_K = \frac{\rho + z - z^2 m - \nu t}{1 - (1 - 2 \nu m - \nu^2 m') / \tau}$$

    $$E = 1 + \rho - 2 (1 - z m) + (1 + x^*) \left(t + \frac{E_K}{\tau} (m + \nu m')\right).$$

    Without a ridge ν = 0 for τ ≥ 1; at τ = 1 both risks are infinite. As τ → ∞ and then α → ∞ the
    gap is 1 - κ for κ < 1, and 0 otherwise.

    Args:
        context: α, positive.
        diversity: κ, positive; infinite if each prompt has a task of its own.
        prompts: τ, positive; infinite for the best layer for the pool.
        noise: ρ, the variance of the label noise.
        ridge: λ, at least 0.

    Returns:
        The limits of both risks.

    Raises:
        ValueError: If an argument is out of range.

    Source: Lu, Letey, Zavatone-Veth, Maiti and Pehlevan (2025), arXiv 2405.11751. Derived here as
    above; without a ridge the values are those of their published code.
    """
    positive("context", context)
    for name, value in {"diversity": diversity, "prompts": prompts}.items():
        if value != np.inf:
            positive(name, value)
    x, tau = (1 + non_negative("noise", noise)) / context, 1 / prompts
    shrunk = _equivalent_ridge(x, 1 / diversity, tau, non_negative("ridge", ridge))
    z = x + shrunk
    m, slope = _resolvent(z, 1 / diversity)
    kept = 1 - 2 * z * m - z**2 * slope
    freedom = 1 - tau * (1 - 2 * shrunk * m - shrunk**2 * slope)
    residual = noise + z - z**2 * m - shrunk * kept
    pool = residual / freedom if freedom else np.inf
    variance = tau * pool * (m + shrunk * slope) if tau else 0.0
    new = 1 + noise - 2 * (1 - z * m) + (1 + x) * (kept + variance)
    return AsymptoticRisk(float(new), float(pool))


def _equivalent_ridge(x: float, crowding: float, share: float, ridge: float) -> float:
    """ν, for 1/κ = `crowding` and 1/τ = `share`; it lies from λ to λ + (1 + x*)/τ."""
    if ridge == 0 and share <= 1:
        return 0.0

    def excess(nu: float) -> float:
        kept = ridge / nu if ridge else 0.0
        return 1 - kept - share * (1 - nu * _resolvent(x + nu, crowding)[0])

    high = ridge + share * (1 + x)
    root: Any = scipy.optimize.brentq(excess, ridge, high, xtol=np.finfo(float).tiny)
    return root


def _resolvent(z: float, crowding: float) -> tuple[float, float]:
    """m(z) and m'(z), without cancellation where most directions have no task."""
    b = z + 1 - crowding
    root = np.sqrt(b**2 + 4 * z * crowding)
    m = 2 / (b + root) if b > 0 else (root - b) / (2 * z * crowding)
    return m, -(m**2) / 2 * (1 + (z + 1 + crowding) / root)
