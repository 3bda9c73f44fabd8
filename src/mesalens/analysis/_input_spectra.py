"""Curvature: what the layers of a linear transformer do to the spectrum of their inputs."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens._precision import in_precision
from mesalens.checks import InputError, count
from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.prompt import AnyPrompt
from mesalens.random import unroll
from mesalens.tasks import Task


def input_spectra(
    model: LinearTransformer,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 2000,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> xr.Dataset:
    r"""The spectrum of `X_l^T X_l / n` for the inputs X_l after l layers, and a step's risk there.

    X_l holds the x-parts of the n context tokens after l layers; l = 0 is the prompt as drawn.
    Everything is computed on fresh prompts, in float64.

    At n = d, E[κ] is infinite: condition numbers have quantiles and a geometric mean,
    exp E[log κ], and are never averaged. Singular values below max(n, d) ε times the largest,
    ε = 2^-52, count as that value, so that κ is finite also if a layer removes a direction.

    The step starts from zero and takes the inputs after l layers, those of the query included, with
    the original labels:

    $$\hat y = \eta a, \qquad a = \frac{1}{n} \sum_i y_i (x_{i,l} \cdot x_{q,l})$$

    $$\min_\eta E\|y_q - \eta a\|^2 = E\|y_q\|^2 - \frac{(E\langle y_q, a \rangle)^2}{E\|a\|^2}
    \quad \text{at } \eta^* = \frac{E\langle y_q, a \rangle}{E\|a\|^2}$$

    summed over outputs. The scale of X_l changes neither κ nor this risk. The risk is stationary in
    η, so that its standard error is that of the mean of ‖y_q - η* a‖². The risk at l = 0 is that
    of [`one_step_risk`][mesalens.theory.one_step_risk] at its best step size.

    Args:
        model: The transformer.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.
        quantiles: The quantiles of the condition number, from 0 to 1.

    Returns:
        A dataset with the following variables, which are not finite if layers diverge.

            - `eigenvalues` (layer, prompt, eigenvalue): descending; only the min(n, d) largest.
            - `condition` (layer, quantile): quantiles over prompts of κ = λ_1 / λ_r.
            - `log_condition` and `log_condition_standard_error` (layer): E[log κ].
            - `step_risk` and `step_risk_standard_error` (layer): the risk of one step of gradient
              descent on X_l.
            - `step_size` (layer): the step size η* with which it has that risk.

    Raises:
        ValueError: If there are fewer than two prompts, or a quantile is not in [0, 1].

    Source: von Oswald et al. (2023), Section 4 and Appendix A.10: GD++ maps x to (I - γ X X^T) x
    and so brings eigenvalues together.
    """
    require(model, LinearTransformer, "input_spectra")
    count("prompts", prompts, at_least=2)
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise InputError(f"quantiles must be from 0 to 1; got {quantile!r}.")
    drawn = eqx.filter_jit(task.sample)(unroll(key), (prompts,))
    with jax.enable_x64(True):
        levels = jnp.asarray(quantiles, jnp.float64)
        measures = _measures(*in_precision((model, *drawn), jnp.float64), quantiles=levels)
    dims = {"eigenvalues": ("layer", "prompt", "eigenvalue"), "condition": ("layer", "quantile")}
    return xr.Dataset(
        {name: (dims.get(name, "layer"), np.asarray(value)) for name, value in measures.items()},
        {"layer": np.arange(model.layers + 1), "quantile": np.asarray(quantiles)},
    )


@eqx.filter_jit
def _measures(
    model: LinearTransformer,
    prompts: AnyPrompt,
    targets: Float[Array, "N m"],
    quantiles: Float[Array, " q"],
) -> dict[str, Float[Array, "..."]]:
    """All that `input_spectra` returns, at the given prompts."""
    n, d, N = prompts.context_length, prompts.dim, len(targets)

    def measure(prompt):
        _, Y = prompt.rows
        inputs = model.residual_stream(prompt)[:, :, :d]
        context, queries = inputs[:, :-1], inputs[:, -1]
        steps = Y.T @ jnp.einsum("lid,ld->il", context, queries) / n
        # LAPACK writes to the terminal about inputs that are not finite
        finite = jnp.isfinite(inputs).all((1, 2))
        singular = jnp.linalg.svd(jnp.where(finite[:, None, None], context, 0), compute_uv=False)
        return jnp.where(finite[:, None], singular, jnp.nan), steps.T

    # In batches: the tokens of all prompts after all layers need not fit in memory at once
    measured = jax.lax.map(measure, prompts, batch_size=256)
    singular, steps = (jnp.moveaxis(leaf, 1, 0) for leaf in measured)
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
