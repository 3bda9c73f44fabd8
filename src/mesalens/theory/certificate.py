"""`Certificate`: how far a layer of linear self-attention is from the best there is."""

from typing import Any

import equinox as eqx
import numpy as np

from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.moments import ContextMoments


class Certificate(eqx.Module):
    """A lower bound for the risk of every one-layer linear self-attention on a task.

    If the gap is within the tolerance, the best known layer is globally optimal.

    Attributes:
        lower_bound: A bound for layers with any number of heads and any weights.
        gap: The risk of the best known layer with one head minus the bound.
        method: `"exact"` or `"simulation"`, for the moments of the task.
        tolerance: 1e-9 of the risk of predicting zero for exact moments, four standard errors for
            simulated ones.
        standard_errors: Those of `lower_bound` and `gap`, for simulated moments.
    """

    lower_bound: float
    gap: float
    method: str
    tolerance: float
    standard_errors: dict[str, Any]

    @property
    def proves_optimality(self) -> bool:
        """Whether the gap is within the tolerance."""
        return bool(self.gap <= self.tolerance)

    @property
    def meaning(self) -> str:
        """What the certificate says, in words."""
        if self.proves_optimality:
            shown = "to rounding" if self.method == "exact" else "within four standard errors"
            return (
                f"The risk is, {shown}, the least that any predictor linear in S ⊗ x_query has: no "
                "weights of one layer of linear self-attention, with any number of heads, do "
                "better."
            )
        meaningful = self.lower_bound > self.tolerance  # a share of rounding says nothing
        share = f", {self.gap / self.lower_bound:.2%} of it" if meaningful else ""
        return (
            f"The best layer with one head that was found is {self.gap:.3g} above the "
            f"bound{share}: a better search or more heads can gain at most that."
        )


def lower_bound(moments: ContextMoments, *, start: bool = False) -> float:
    r"""The risk of the best predictor linear in `S ⊗ x_q`, a lower bound for every LSA layer.

    $$\min_\Gamma E\|y_q - \Gamma \cdot (S \otimes x_q)\|^2$$

    A one-layer linear self-attention is the case `Γ_k = -Σ_h sym(b_hk ⊗ A_h)`, of rank one for each
    head. Without that constraint the problem is least squares, hence convex, and solved exactly.

    Args:
        moments: The moments of the task.
        start: Whether layers may have a W_0, and so any linear function of the query as well:
            `W_0 x_q + Γ · (S ⊗ x_q)`.

    Returns:
        The bound.
    """
    second, cross, mean = moments.second, moments.cross, moments.mean
    joint = None if moments.joint is None else moments.joint.second
    if start:  # the feature 1 in addition to those of S
        second = np.block([[second, mean[:, None]], [mean, 1.0]])
        cross = np.concatenate([cross, moments.target[None]])
        if moments.joint is not None:
            p, r = moments.joint.mean.shape[:2]
            joint = np.zeros((p + 1, r, p + 1, r))
            joint[:p, :, :p], joint[p, :, p] = moments.joint.second, moments.query
            joint[:p, :, p], joint[p, :, :p] = moments.joint.mean, moments.joint.mean.swapaxes(0, 1)
    return moments.null_risk - best_linear(second, cross, moments.query, joint)[1]
