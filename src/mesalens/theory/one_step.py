"""One step of gradient descent: its exact risk and best step size for linear regression."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from mesalens.checks import matrix
from mesalens.display import InNotebook, Summary
from mesalens.tasks import RegressionTask, Task
from mesalens.theory._preconditioned_risk import step_mean_square
from mesalens.theory._requirements import linear_regression
from mesalens.theory.moments import ContextMoments

SIMULATED = (
    "one_step_risk_from(task_moments(task, relative_error=0.01), task.context_length) simulates "
    "the risk of a step from zero"
)
"""What there is for other functions."""


class OneStepRisk(eqx.Module, InNotebook):
    r"""The risk E‖ŷ - y_query‖² of one step of gradient descent, a parabola in its step size η.

    $$R(\eta) = \text{null\_risk} - 2 \, \frac{\eta}{n} \, \text{gain}
    + \left(\frac{\eta}{n}\right)^2 \text{cost}$$

    All numbers are in float64. With `G = Σ_i (y_i - W_0 x_i) x_i^T`, -G/n is the gradient at W_0.

    Attributes:
        null_risk: The risk of W_0, without a step.
        gain: `E[(y_q - W_0 x_q) · G x_q]`.
        cost: `E‖G x_q‖²`.
        context_length: n, the number of examples in a prompt.
    """

    null_risk: float
    gain: float
    cost: float
    context_length: int

    def _summary(self) -> Summary:
        names = ("best_step_size", "best_risk", "null_risk")
        return Summary(rows={n.replace("_", " "): f"{getattr(self, n):.7g}" for n in names})

    @property
    def best_step_size(self) -> float:
        """η* = n gain / cost, the minimiser of the parabola; 0 if no step has any effect."""
        return self.context_length * self.gain / self.cost if self.cost else 0.0

    @property
    def best_risk(self) -> float:
        """R(η*) = null_risk - gain² / cost."""
        return self.at(self.best_step_size)

    def at(self, step_size: float) -> float:
        """The risk R(η).

        Args:
            step_size: η.
        """
        rate = step_size / self.context_length
        return self.null_risk - 2 * rate * self.gain + rate**2 * self.cost


def one_step_risk(
    task: Task, initial_weights: Float[np.ndarray, "m d"] | None = None
) -> OneStepRisk:
    r"""The exact risk of one step of gradient descent from W_0, for linear functions.

    The label of a clean example has residual `(W - W_0) x + ε`, that of a distractor `-W_0 x + ζ`.
    With `M = E[x x^T]`, `F(G) = E[(x^T G x) x x^T]`, `Ω = W_0^T W_0`, `Δ = E[W] - W_0`,
    `V = E[(W - W_0)^T (W - W_0)] = m Λ + Δ^T Δ`, `Ψ = -(Δ^T W_0 + W_0^T Δ)/2`, noise of variance
    `v(x) = s + x^T H x`, k distractors of variance ζ² among n examples and `c = n - k`:

    $$\text{null\_risk} = \operatorname{tr}(M V) + m (s + \operatorname{tr}(H M)), \qquad
    \text{gain} = \operatorname{tr}(M (c V + k \Psi) M)$$

    $$\begin{aligned} \text{cost} = \operatorname{tr}(M [ & c F(V) + k F(\Omega)
    + M (c (c-1) V + 2 c k \Psi + k (k-1) \Omega) M \\
    & + m (c (s M + F(H)) + k \zeta^2 M) ]) \end{aligned}$$

    Two clean examples of a prompt share one W, hence `M V M`. A distractor shares with others only
    W_0, hence `M Ψ M` and `M Ω M`. Given x the noise has mean 0, so that of its law only
    `E[v(x) x x^T] = s M + F(H)` matters. For x ~ N(0, I), W_0 = 0, Λ = I, k = 0 and noise variance
    σ² the best rate η*/n is 1/(n + d + 1 + σ²) (Mahankali et al., 2024, Theorem 1).

    Args:
        task: Linear regression.
        initial_weights: W_0, of shape (m, d). Zero by default.

    Returns:
        The risk as a function of the step size.

    Raises:
        ValueError: If the functions are not linear, covariates or noise do not define their
            moments, or W_0 is not m × d.

    Examples:
        >>> from mesalens import tasks, theory
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=14
        ... )
        >>> risk = theory.one_step_risk(task)
        >>> print(f"{risk.best_step_size:.3f} {risk.best_risk:.3f} {risk.at(0.0):.3f}")
        0.700 1.500 5.000
    """
    task, functions = linear_regression(task, SIMULATED)
    n, k, m = task.context_length, int(task.distractors.count), task.outputs
    clean = n - k
    start = np.zeros((m, task.dim)) if initial_weights is None else initial_weights
    start = matrix("initial_weights", start, (m, task.dim))

    M, F = task.covariates.second_moment(), task.covariates.fourth_moment
    omega = start.T @ start
    shift = functions.weight_mean() - start
    V = m * functions.row_covariance() + shift.T @ shift
    mixed = -(shift.T @ start + start.T @ shift) / 2
    noise, noise_label = noise_moments(task)

    own = clean * F(V) + k * F(omega)
    pairs = M @ (clean * (clean - 1) * V + 2 * clean * k * mixed + k * (k - 1) * omega) @ M
    labels = m * (clean * noise_label + k * float(task.distractors.variance) * M)
    return OneStepRisk(
        null_risk=float(np.trace(M @ V) + m * noise),
        gain=float(np.trace(M @ (clean * V + k * mixed) @ M)),
        cost=float(np.trace(M @ (own + pairs + labels))),
        context_length=n,
    )


def noise_moments(task: RegressionTask) -> tuple[float, Float[np.ndarray, "d d"]]:
    """E[v(x)] and E[v(x) x x^T], v the variance of the noise given x."""
    constant, growth = task.noise.conditional_variance(task.dim)
    M = task.covariates.second_moment()
    mean = float(constant) + float(np.trace(growth @ M))
    return mean, float(constant) * M + task.covariates.fourth_moment(growth)


def one_step_risk_from(moments: ContextMoments, context_length: int) -> OneStepRisk:
    r"""The risk of one step from zero on any task, from its moments, exact or simulated.

    $$\text{gain} = \sum_k \operatorname{tr}(E[x_q y_{qk} s_k^T]), \qquad
    \text{cost} = \sum_k E[(x_q \cdot s_k)^2], \qquad s_k = \sum_i y_{ik} x_i$$

    Args:
        moments: The moments of the task.
        context_length: n, the number of examples in a prompt.

    Returns:
        The risk as a function of the step size.
    """
    metric = moments.inputs.T @ moments.inputs  # x^T x' in the coordinates z
    return OneStepRisk(
        null_risk=moments.null_risk,
        gain=float(np.trace(metric @ moments.of_labels()[1])),
        cost=step_mean_square(metric, moments),
        context_length=context_length,
    )


def best_step_size(task: Task, initial_weights: Float[np.ndarray, "m d"] | None = None) -> float:
    """The best step size η* of one step of gradient descent, for linear functions.

    Args:
        task: Linear regression.
        initial_weights: W_0, of shape (m, d). Zero by default.

    Returns:
        The minimiser of [`one_step_risk`][mesalens.theory.one_step_risk].
    """
    return one_step_risk(task, initial_weights).best_step_size
