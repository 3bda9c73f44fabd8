"""Curvature: what the layers of a linear transformer do to the spectrum of their inputs."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count
from mesalens.models import LinearTransformer
from mesalens.prompt import Prompt
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.training.engine import in_precision


def curvature(
    model: LinearTransformer,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 2000,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> xr.Dataset:
    """The spectrum of `X_l^T X_l / n` for the inputs X_l after l layers, and how well descent would do on them.

    X_l holds the x-parts of the n context tokens after l layers; l = 0 is the prompt as it came. On fresh prompts, in float64:

        eigenvalues (layer, prompt, eigenvalue)   the r = min(n, d) largest, descending; where n < d the others are 0
        condition (layer, quantile)               quantiles over prompts of κ = λ_1 / λ_r
        log_condition (layer)                     E[log κ], with log_condition_standard_error
        step_risk (layer)                         the risk of one step of gradient descent on X_l, with step_risk_standard_error
        step_size (layer)                         the step size η* with which it has that risk

    At n = d, E[κ] is infinite: condition numbers have quantiles and a geometric mean, exp E[log κ], and are never averaged. Singular
    values below max(n, d) ε times the largest, ε = 2^-52, count as that, so that κ is finite also where a layer ends a direction.

    The step starts from zero and takes the inputs after l layers, the query's too, with the labels as they came:

        ŷ = η a,  a = 1/n Σ_i y_i (x_i,l · x_q,l),      min_η E‖y_q - η a‖² = E‖y_q‖² - (E⟨y_q, a⟩)² / E‖a‖²  at  η* = E⟨y_q, a⟩ / E‖a‖²,

    summed over outputs. The scale of X_l changes neither κ nor this risk. As the risk is stationary in η, its standard error is that of
    the mean of ‖y_q - η* a‖². The risk at l = 0 is that of `mesalens.theory.one_step_risk` at its best step size. Where layers diverge,
    results are not finite.

    Raises `ValueError` where there are less than two prompts, or a quantile is not between 0 and 1.

    Source: von Oswald et al. (2023), Section 4 and Appendix A.10: GD++ takes x to (I - γ X X^T) x and so brings eigenvalues together.
    """
    count("prompts", prompts, at_least=2)
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise InputError(f"a quantile is {quantile!r}; give numbers from 0 to 1.")
    drawn = _sample(task, key, prompts)
    with jax.enable_x64(True):
        levels = jnp.asarray(quantiles, jnp.float64)
        double, prompt, target = in_precision((model, *drawn), jnp.float64)
        found = {name: np.asarray(value) for name, value in _measures(double, prompt, target, levels).items()}
    dims = {"eigenvalues": ("layer", "prompt", "eigenvalue"), "condition": ("layer", "quantile")}
    variables = {name: (dims.get(name, ("layer",)), value) for name, value in found.items()}
    return xr.Dataset(variables, {"layer": np.arange(model.layers + 1), "quantile": np.asarray(quantiles)})


@eqx.filter_jit
def _sample(task: Task, key: Key[Array, ""], prompts: int) -> tuple[Prompt, Float[Array, "N m"]]:
    return task.sample(unroll(key), (prompts,))


@eqx.filter_jit
def _measures(
    model: LinearTransformer, prompts: Prompt, targets: Float[Array, "N m"], quantiles: Float[Array, " q"]
) -> dict[str, Float[Array, "..."]]:
    """All that `curvature` returns, at the given prompts."""
    n, d, N = prompts.context_length, prompts.dim, len(targets)

    def of_prompt(prompt):
        inputs = model.residual_stream(prompt)[:, :, :d]
        steps = prompt.ys.T @ jnp.einsum("lid,ld->il", inputs[:, :-1], inputs[:, -1]) / n
        finite = jnp.isfinite(inputs).all((1, 2))  # LAPACK writes to the terminal about other numbers
        singular = jnp.linalg.svd(jnp.where(finite[:, None, None], inputs[:, :-1], 0), compute_uv=False)
        return jnp.where(finite[:, None], singular, jnp.nan), steps.T

    # Memory for all tokens of some prompts at a time
    singular, steps = (jnp.moveaxis(leaf, 1, 0) for leaf in jax.lax.map(of_prompt, prompts, batch_size=256))
    largest, smallest = singular[..., 0], singular[..., -1]
    ratio = jnp.where(largest == 0, 0, smallest / largest)
    condition = jnp.maximum(ratio, max(n, d) * jnp.finfo(ratio.dtype).eps) ** -2
    gain, cost = jnp.mean(jnp.sum(steps * targets, -1), -1), jnp.mean(jnp.sum(steps**2, -1), -1)
    step_size = jnp.where(cost == 0, 0, gain / cost)
    errors = jnp.sum((targets - step_size[:, None, None] * steps) ** 2, -1)
    return {
        "eigenvalues": singular**2 / n,
        "condition": jnp.quantile(condition, quantiles, axis=1).T,
        "log_condition": jnp.log(condition).mean(1),
        "log_condition_standard_error": jnp.log(condition).std(1, ddof=1) / jnp.sqrt(N),
        "step_risk": errors.mean(1),
        "step_risk_standard_error": errors.std(1, ddof=1) / jnp.sqrt(N),
        "step_size": step_size,
    }
