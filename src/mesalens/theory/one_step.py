"""One step of gradient descent, solved: its exact risk and best step size for a linear regression task."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import LinearFunctions, RegressionTask, Task
from mesalens.theory.moments import ContextMoments


class OneStepRisk(NamedTuple):
    """The risk E‖ŷ - y_query‖² of one step of gradient descent, a parabola in its step size η:

    R(η) = null_risk - 2 (η/n) gain + (η/n)² cost

    `null_risk` is the risk of not moving, `gain` = E[(y - W_0 x_q) · G x_q] and `cost` = E‖G x_q‖², where -G/n is the gradient
    at W_0, `G = Σ_i (y_i - W_0 x_i) x_i^T`. All in float64.
    """

    null_risk: float
    gain: float
    cost: float
    context_length: int

    @property
    def best_step_size(self) -> float:
        """η* = n gain / cost, where the parabola has its least value; 0 where no step moves anything."""
        return self.context_length * self.gain / self.cost if self.cost else 0.0

    @property
    def best_risk(self) -> float:
        """R(η*) = null_risk - gain² / cost."""
        return self.at(self.best_step_size)

    def at(self, step_size: float) -> float:
        """R(η)."""
        rate = step_size / self.context_length
        return self.null_risk - 2 * rate * self.gain + rate**2 * self.cost


def one_step_risk(task: Task, initial_weights: Float[np.ndarray, "m d"] | None = None) -> OneStepRisk:
    """The exact risk of one step of gradient descent from W_0 (zero where it is not given), for linear functions.

    The label of a clean example has residual `(W - W_0) x + ε`, that of a distractor `-W_0 x + ζ`. With `M = E[x x^T]`,
    `F(G) = E[(x^T G x) x x^T]`, `Ω = W_0^T W_0`, `Δ = E[W] - W_0`, `V = E[(W - W_0)^T (W - W_0)] = m Λ + Δ^T Δ`,
    `Ψ = -(Δ^T W_0 + W_0^T Δ)/2`, noise variance σ², k distractors of variance ζ² among n examples and `c = n - k`:

        null_risk = tr(M V) + m σ²
        gain      = tr(M (c V + k Ψ) M)
        cost      = tr(M [c F(V) + k F(Ω) + M (c (c-1) V + 2 c k Ψ + k (k-1) Ω) M + m (c σ² + k ζ²) M])

    Two clean examples of a prompt share one W, hence `M V M`; a distractor shares with others only W_0, hence `M Ψ M` and `M Ω M`.
    For x ~ N(0, I), W_0 = 0, Λ = I, k = 0 the best rate η*/n is 1/(n + d + 1 + σ²) (Mahankali et al., 2024, Theorem 1).

    Raises `ValueError` where the task is no regression or the functions are not linear, whose moments are not known exactly here, and
    where W_0 is not m × d.
    """
    if not isinstance(task, RegressionTask):
        raise InputError(
            f"the exact risk is known for a RegressionTask, not for {type(task).__name__}; simulate it instead."
        )
    functions = task.functions
    if not isinstance(functions, LinearFunctions):
        raise InputError(
            f"the exact risk is known for LinearFunctions, not for {type(functions).__name__}; simulate it instead."
        )
    n, k, m = task.context_length, int(task.distractors.count), task.outputs
    clean = n - k
    start = np.zeros((m, task.dim)) if initial_weights is None else np.asarray(initial_weights, np.float64)
    if start.shape != (m, task.dim):
        raise InputError(f"initial_weights has shape {start.shape}; this task needs ({m}, {task.dim}).")
    if not np.isfinite(start).all():
        raise InputError("initial_weights holds values that are not finite; replace them by numbers.")

    M, F = task.covariates.second_moment(), task.covariates.fourth_moment
    omega = start.T @ start
    shift = functions.weight_mean() - start
    V = m * functions.row_covariance() + shift.T @ shift
    mixed = -(shift.T @ start + start.T @ shift) / 2
    noise, distraction = float(task.noise.variance), float(task.distractors.variance)

    own = clean * F(V) + k * F(omega)
    pairs = M @ (clean * (clean - 1) * V + 2 * clean * k * mixed + k * (k - 1) * omega) @ M
    labels = m * (clean * noise + k * distraction) * M
    return OneStepRisk(
        null_risk=float(np.trace(M @ V) + m * noise),
        gain=float(np.trace(M @ (clean * V + k * mixed) @ M)),
        cost=float(np.trace(M @ (own + pairs + labels))),
        context_length=n,
    )


def one_step_risk_from(moments: ContextMoments, context_length: int) -> OneStepRisk:
    """The risk of one step from zero on any task, from its moments: exact or simulated as these are.

    gain = Σ_k tr(E[x_q y_qk s_k^T]),    cost = Σ_k tr(E[x x^T] E[s_k s_k^T]),    s_k = Σ_i y_ik x_i
    """
    metric = moments.inputs.T @ moments.inputs  # x^T x' in the coordinates z
    squares, labels = moments.of_labels()
    return OneStepRisk(
        null_risk=moments.null_risk,
        gain=float(np.trace(metric @ labels)),
        cost=float(np.trace(metric @ squares @ metric @ moments.query)),
        context_length=context_length,
    )


def best_step_size(task: Task, initial_weights: Float[np.ndarray, "m d"] | None = None) -> float:
    """η*, the step size with which one step of gradient descent has the least risk on the task. See `one_step_risk`."""
    return one_step_risk(task, initial_weights).best_step_size
