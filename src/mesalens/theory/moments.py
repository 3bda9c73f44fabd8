"""`ContextMoments`: what the risk of a layer of linear self-attention depends on."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from mesalens.theory.symmetric import bilinear, smat


class JointMoments(eqx.Module):
    """Moments of contexts together with their queries.

    Attributes:
        second: E[s ⊗ z ⊗ s ⊗ z], of shape (p, r, p, r).
        mean: E[s ⊗ z ⊗ z], of shape (p, r, r).
    """

    second: Float[np.ndarray, "p r p r"]
    mean: Float[np.ndarray, "p r r"]


class ContextMoments(eqx.Module):
    """The moments of a task that determine the risk of every one-layer linear self-attention.

    A layer reads the context through `S = Σ_i e_i e_i^T` with `e_i = (z_i, y_i)`, and is linear in
    `S ⊗ z_q`. The coordinates z, with `x = R z`, are those in which `E[z z^T]` is well conditioned.
    A layer in x is one in z with other weights, so nothing is lost except directions in which x
    never points. Below, s are the p = (r + m)(r + m + 1)/2 entries of S on and above
    the diagonal, those above times √2. All arrays are in float64.

    The mean square of a prediction needs `E[s ⊗ z_q ⊗ s ⊗ z_q]`. If context and query share only
    the function f, it is `second ⊗ query`. If they share more (the component of a mixture, a mean,
    the query itself), `joint` has it.

    Attributes:
        inputs: R, of shape (d, r).
        query: E[z z^T], of shape (r, r).
        target: E[z_q y_q^T], of shape (r, m).
        mean: E[s], of shape (p,).
        second: E[s s^T], of shape (p, p).
        cross: E[s ⊗ z_q ⊗ y_q], of shape (p, r, m).
        null_risk: E‖y_q‖², the risk of predicting zero.
        joint: Moments of contexts together with their queries, or None if they share only f.
        replicates: For simulated moments, the same moments without one of G groups of prompts each,
            for the jackknife. Empty for exact moments.
    """

    inputs: Float[np.ndarray, "d r"]
    query: Float[np.ndarray, "r r"]
    target: Float[np.ndarray, "r m"]
    mean: Float[np.ndarray, " p"]
    second: Float[np.ndarray, "p p"]
    cross: Float[np.ndarray, "p r m"]
    null_risk: float
    joint: JointMoments | None = None
    replicates: tuple["ContextMoments", ...] = ()

    @property
    def method(self) -> str:
        """How the moments were computed: "exact" or "simulation"."""
        return "simulation" if self.replicates else "exact"

    @property
    def rank(self) -> int:
        """r, the number of directions in which inputs point."""
        return self.query.shape[0]

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.target.shape[1]

    def second_tensor(self) -> Float[np.ndarray, "D D D D"]:
        """E[S ⊗ S] with all four indices."""
        size = self.rank + self.outputs
        return smat(smat(self.second, size).T, size)

    def cross_tensor(self) -> Float[np.ndarray, "D D r m"]:
        """E[S ⊗ z_q ⊗ y_q] with all four indices."""
        return smat(self.cross.T, self.rank + self.outputs).T

    def mean_square(
        self, features: Float[np.ndarray, "k q p"]
    ) -> tuple[Float[np.ndarray, "q q"], Float[np.ndarray, "q r q r"] | None]:
        """`Σ_k E[φ_k φ_k^T]` of features `φ_k = F_k s`, and `Σ_k E[φ_k φ_k^T ⊗ z z^T]` if `joint`.

        Args:
            features: F_k, of shape (k, q, p).
        """
        second = np.einsum("kap,pq,kbq->ab", features, self.second, features, optimize=True)
        if self.joint is None:
            return second, None
        joint = np.einsum(
            "kap,prqs,kbq->arbs", features, self.joint.second, features, optimize=True
        )
        return second, joint

    def labels(self) -> Float[np.ndarray, "m r p"]:
        """The matrices F_k with `s_k = F_k s` for `s_k = Σ_i y_ik z_i`, of shape (m, r, p)."""
        r, size = self.rank, self.rank + self.outputs
        eye = np.eye(size)
        return bilinear(eye[None, :r], eye[r:, None])

    def of_labels(self) -> tuple[Float[np.ndarray, "r r"], Float[np.ndarray, "r r"]]:
        """`Σ_k E[s_k s_k^T]` and `Σ_k E[s_k y_qk z_q^T]` with `s_k = Σ_i y_ik z_i`.

        A step of descent from zero depends on the moments only through them.
        """
        r = self.rank
        squares = np.einsum("akbk->ab", self.second_tensor()[:r, r:, :r, r:])
        return squares, np.einsum("akbk->ab", self.cross_tensor()[:r, r:])


def estimate(
    functional: Callable[[ContextMoments], Mapping[str, Any]], moments: ContextMoments
) -> tuple[dict[str, Any], dict[str, Any]]:
    r"""Values computed from moments, by name, and their standard errors.

    Exact moments have no standard errors. Simulated ones go through the jackknife (Efron, 1982):
    with θ from all prompts, θ_g without group g and θ̄ the mean of these,

    $$\text{value} = G \theta - (G-1) \bar\theta, \qquad
    \text{standard error}^2 = \frac{G-1}{G} \sum_g (\theta_g - \bar\theta)^2.$$

    Args:
        functional: Maps moments to numbers or arrays by name.
        moments: The moments of a task.

    Returns:
        The values, and the standard errors (empty for exact moments).
    """
    values = dict(functional(moments))
    if not moments.replicates:
        return values, {}
    left_out = [functional(replicate) for replicate in moments.replicates]
    groups, errors = len(left_out), {}
    for name, value in values.items():
        each = np.stack([replicate[name] for replicate in left_out])
        pair = groups * value - (groups - 1) * each.mean(0), np.sqrt((groups - 1) * each.var(0))
        values[name], errors[name] = (part if part.ndim else float(part) for part in pair)
    return values, errors
