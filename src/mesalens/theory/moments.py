"""`ContextMoments`: what the risk of a layer of linear self-attention depends on."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from mesalens.theory.symmetric import smat


class ContextMoments(eqx.Module):
    """Moments on which the risk of every one-layer linear self-attention depends, in float64.

    A layer reads the context through `S = Σ_i e_i e_i^T`, `e_i = (z_i, y_i)`, and is linear in
    `S ⊗ z_q`; context and query share only the function f. The coordinates z are those in which
    `E[z z^T]` is well conditioned: `x = R z`. A layer in x is one in z with other weights, so
    nothing is lost but directions in which x never points. With `s = svec(S)`:

        inputs   R                    second   E[s s^T]
        query    E[z z^T]             cross    E[s ⊗ z_q ⊗ y_q]
        target   E[z_q y_q^T]         mean     E[s]                   null_risk   E‖y_q‖²

    `replicates` is empty for exact moments. For simulated ones it holds those of the jackknife: the
    same moments without one of G groups of prompts.
    """

    inputs: Float[np.ndarray, "d r"]
    query: Float[np.ndarray, "r r"]
    target: Float[np.ndarray, "r m"]
    mean: Float[np.ndarray, " p"]
    second: Float[np.ndarray, "p p"]
    cross: Float[np.ndarray, "p r m"]
    null_risk: float
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

    def of_labels(self) -> tuple[Float[np.ndarray, "r r"], Float[np.ndarray, "r r"]]:
        """Σ_k E[s_k s_k^T] and Σ_k E[s_k y_qk z_q^T] with `s_k = Σ_i y_ik z_i`.

        A step of descent from zero depends on the moments through them alone.
        """
        r = self.rank
        squares = np.einsum("akbk->ab", self.second_tensor()[:r, r:, :r, r:])
        return squares, np.einsum("akbk->ab", self.cross_tensor()[:r, r:])


def estimate(
    functional: Callable[[ContextMoments], Mapping[str, Any]], moments: ContextMoments
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of a functional of the moments, by name, and their standard errors.

    Exact moments have no standard errors. Simulated ones go through the jackknife (Efron, 1982):
    with θ from all prompts, θ_g without group g and θ̄ the mean of these,

        value = G θ - (G-1) θ̄,     standard error² = (G-1)/G Σ_g (θ_g - θ̄)².

    Args:
        functional: maps moments to numbers or arrays by name.
        moments: of a task.
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
