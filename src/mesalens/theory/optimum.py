"""The optimal layer of linear self-attention for a task, and the certificate that it is."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.display import InNotebook, Summary
from mesalens.learners import GradientDescent
from mesalens.models import LinearTransformer
from mesalens.tasks import Task
from mesalens.theory._task_moments import task_moments
from mesalens.theory.certificate import Certificate, lower_bound
from mesalens.theory.layer_search import best_layer, search
from mesalens.theory.moments import ContextMoments, estimate
from mesalens.theory.preconditioner import best_preconditioner

Implements = Literal["gradient-descent", "preconditioned-gradient-descent", "other"]


class OptimalLayer(eqx.Module, InNotebook):
    """The best layer of linear self-attention with one head (W_0 = 0), and what it implements.

    Attributes:
        implements: `"gradient-descent"`, `"preconditioned-gradient-descent"` or `"other"`.
        risk: E‖ŷ - y_query‖² of the layer.
        null_risk: E‖y_query‖², the risk of predicting zero.
        preconditioner: P of the prediction `ŷ = x_q^T P Σ_i y_i x_i`, of shape (d, d), or None for
            `"other"`.
        step_size: n p if P = p I, otherwise None: the size of the step on the mean loss over the
            context, as `GradientDescent` takes it.
        descent_preconditioner: P of the best preconditioned step from zero, which need not be the
            best layer.
        descent_risk: The risk of that step.
        certificate: How far the layer may be from the best.
        A: Effective matrix A of the layer, of shape (D, D).
        B: Effective matrix B of the layer, of shape (D, D).
        context_length: n, the number of examples in a prompt of the task.
        standard_errors: Those of the simulated numbers, by name.
    """

    implements: Implements
    risk: float
    null_risk: float
    preconditioner: Float[np.ndarray, "d d"] | None
    step_size: float | None
    descent_preconditioner: Float[np.ndarray, "d d"]
    descent_risk: float
    certificate: Certificate
    A: Float[np.ndarray, "D D"]
    B: Float[np.ndarray, "D D"]
    context_length: int
    standard_errors: dict[str, Any]

    def _summary(self) -> Summary:
        names = ("step_size", "risk", "null_risk", "descent_risk")
        rows = {name.replace("_", " "): getattr(self, name) for name in names}
        rows = {
            name: f"{value:.7g}" + (f" ± {error:.1g}" if error else "")
            for name, value in rows.items()
            if value is not None
            for error in [self.standard_errors.get(name.replace(" ", "_"), 0.0)]
        }
        rows |= {"lower bound": f"{self.certificate.lower_bound:.7g}"}
        return Summary(self.implements, rows, lines=[self.certificate.meaning])

    def gradient_descent(self) -> GradientDescent:
        """The best preconditioned step from zero as a learner.

        Returns:
            `GradientDescent(1, preconditioner=n P)`, with P of `descent_preconditioner`.
        """
        P = jnp.asarray(self.context_length * self.descent_preconditioner.T, jnp.float32)
        return GradientDescent(1.0, preconditioner=P)

    def layer(self) -> LinearTransformer:
        """The layer as a `LinearTransformer`."""
        A, B = (jnp.asarray(matrix)[None, None] for matrix in (self.A, self.B))
        outputs = len(self.A) - len(self.descent_preconditioner)
        return LinearTransformer.from_effective(A, B, layers=1, outputs=outputs)


def optimal_layer(
    task: Task,
    moments: ContextMoments | None = None,
    *,
    starts: int = 8,
    **simulation: Any,
) -> OptimalLayer:
    """The best one-layer linear self-attention for a task, with a certificate.

    If the risk of the best preconditioned step of descent
    ([`best_preconditioner`][mesalens.theory.best_preconditioner]) equals the certified bound
    ([`lower_bound`][mesalens.theory.lower_bound]), that step is globally optimal. Otherwise layers
    are searched: the result is then the best layer found, and the certificate says how far it may
    be from the best.

    Args:
        task: A regression task, or a mixture of them.
        moments: The moments of the task. By default `task_moments(task, **simulation)`.
        starts: The number of random starts of the search, besides those that the theory suggests.
        **simulation: `key`, `relative_error` and `progress`, as in
            [`simulated_moments`][mesalens.theory.simulated_moments].

    Returns:
        The layer, its risk and its certificate.

    Raises:
        ValueError: If the task is of another kind, or simulated moments contradict a symmetry that
            it claims.

    Source: Mahankali et al. (2024), Theorems 1 to 3, for the tasks they treat.

    Examples:
        >>> from mesalens import tasks, theory
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=14
        ... )
        >>> best = theory.optimal_layer(task)
        >>> best.implements, round(best.step_size, 6), round(best.risk, 6)
        ('gradient-descent', 0.7, 1.5)
        >>> best.certificate.proves_optimality
        True
    """
    moments = task_moments(task, **simulation) if moments is None else moments
    simulated = moments.method == "simulation"
    isotropic = simulated and task.rotation_invariant

    def measured(moments: ContextMoments, rows=None) -> dict[str, Any]:
        """Descent, the bound, and the best layer: descent, or near the rows if given."""
        P, descent_risk = best_preconditioner(moments, isotropic=isotropic)
        risk = descent_risk if rows is None else search(moments, rows).risk
        bound = lower_bound(moments)
        return {
            "risk": risk,
            "null_risk": moments.null_risk,
            "preconditioner": P,
            "step_size": float(np.trace(P)) / moments.rank,
            "descent_risk": descent_risk,
            "descent_preconditioner": P,
            "lower_bound": bound,
            "gap": risk - bound,
            "gain": descent_risk - risk,
        }

    values, errors = estimate(measured, moments)
    P, step_size = values["preconditioner"], values["step_size"]
    # -[B S A e_q]_y = Σ_i y_i x_i^T P^T x_q
    A, B = np.pad(P.T, (0, task.outputs)), np.diag([0.0] * task.dim + [-1.0] * task.outputs)
    known = ("risk", "null_risk", "descent_risk", "descent_preconditioner", "preconditioner")
    implements: Implements = "preconditioned-gradient-descent"
    reach = moments.inputs @ np.linalg.pinv(moments.inputs)  # the directions in which inputs point
    # Rounding, or five standard errors of a simulated P
    limit = 5 * errors["preconditioner"] if simulated else 1e-9 * np.abs(P).max()
    if np.all(np.abs(P - step_size * reach) <= limit):
        implements, known = "gradient-descent", (*known, "step_size")
        if not simulated:  # without rounding, and the same where inputs never point
            values["preconditioner"] = step_size * np.eye(task.dim)
    if values["gap"] > _tolerance("gap", values, errors):
        # With several outputs each may need its own P, which no layer with one head has
        if simulated and task.sign_symmetric and task.outputs == 1:
            functions = getattr(task, "functions", task)
            raise InputError(
                f"sign_symmetric must be False for {type(functions).__name__}: if f and -f "
                "were equally likely, a step of descent would be the best layer, but its risk is "
                f"{values['gap']:.3g} ± {errors['gap']:.2g} above the bound."
            )
        layer = best_layer(moments, starts)
        searched, searched_errors = estimate(lambda each: measured(each, layer.rows), moments)
        if searched["gain"] > _tolerance("gain", searched, searched_errors):
            implements, known, values, errors = "other", known[:4], searched, searched_errors
            A, B = layer.weights(moments)

    def simulated_errors(*names: str) -> dict[str, Any]:
        return {name: errors[name] for name in names if simulated}

    for known_size in (values, errors):  # from the sum over the context to its mean
        if "step_size" in known_size:
            known_size["step_size"] = task.context_length * known_size["step_size"]
    numbers: dict[str, Any] = {"preconditioner": None, "step_size": None}
    numbers |= {name: values[name] for name in known} | {"context_length": task.context_length}
    numbers["standard_errors"] = simulated_errors(*known)
    certificate = Certificate(
        values["lower_bound"],
        values["gap"],
        moments.method,
        tolerance=_tolerance("gap", values, errors),
        standard_errors=simulated_errors("lower_bound", "gap"),
    )
    return OptimalLayer(**numbers, implements=implements, certificate=certificate, A=A, B=B)


def certify(task: Task, moments: ContextMoments | None = None, **options: Any) -> Certificate:
    """The certificate of the best one-layer linear self-attention for a task.

    Args:
        task: A regression task, or a mixture of them.
        moments: The moments of the task, as in `optimal_layer`.
        **options: Further arguments of [`optimal_layer`][mesalens.theory.optimal_layer].

    Returns:
        `optimal_layer(task, moments, **options).certificate`.
    """
    return optimal_layer(task, moments, **options).certificate


def _tolerance(name: str, values, errors) -> float:
    """What counts as 0: a billionth of the risk of predicting zero, or four standard errors."""
    return 4 * float(errors[name]) if errors else 1e-9 * values["null_risk"]
