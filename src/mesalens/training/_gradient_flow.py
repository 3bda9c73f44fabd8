"""`gradient_flow`: training with infinite batches and infinitely small steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens._precision import in_precision
from mesalens.checks import InputError, count
from mesalens.learners import Learner
from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.theory import best_preconditioner, population_risk, task_moments
from mesalens.training.training import Training

MOST_STEPS = 100_000
STATIONARY = 1e-9
"""The flow has converged if the gradient has a smaller norm, and the risk is at most that of the
best step of descent: at saddles, and for small weights, the gradient is as small."""


def gradient_flow(
    initialise: Callable[[Key[Array, ""]], Learner],
    task: Task,
    times: Sequence[float] | Float[np.ndarray, " times"],
    *,
    seeds: int = 1,
    key: Key[Array, ""],
    measure: Callable[[Any], Mapping[str, Any]] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> Training:
    r"""Gradient flow of one layer of linear self-attention on its exact risk.

    $$ \frac{d\theta}{dt} = -\frac{\partial R}{\partial \theta} $$

    It is integrated in float64 by Tsitouras' 5(4) method with adaptive steps (`diffrax.Tsit5`),
    until it has converged or the last time is reached. The equations are stiff: if d or the inputs
    are large, it takes minutes.

    Args:
        initialise: `initialise(key)` returns the layer at time 0. Seed i has the same initial
            weights as seed i of `train`.
        task: The distribution of prompts.
        times: Two or more increasing times, the first at least 0.
        seeds: The number of runs.
        key: A random key.
        measure: `measure(layer)` returns numbers or arrays by name, to be saved at each time.
        rtol: The relative tolerance of a step.
        atol: The absolute tolerance of a step.

    Returns:
        The layers at the last time, and `metrics` with the dimensions `seed` and `time`: `risk`,
            and the results of `measure`.

    Raises:
        ValueError: if the times do not increase, the exact risk is unknown, the learner is not such
            a layer, or the flow does not reach the last time.
    """
    count("seeds", seeds)
    times = np.asarray(times, np.float64)
    rising = times.ndim == 1 and len(times) > 1 and times[0] >= 0 and (np.diff(times) > 0).all()
    if not (rising and np.isfinite(times[-1])):
        raise InputError("times must be two or more increasing numbers, the first at least 0.")
    moments = task_moments(task)
    step = best_preconditioner(moments)[1]
    near = step + 1e-6 * (moments.null_risk - step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.arange(seeds))
    start = eqx.filter_jit(eqx.filter_vmap(lambda key: initialise(jax.random.split(key, 3)[0])))
    learners = require(start(keys), LinearTransformer, "objective")
    with jax.enable_x64(True):
        learners = in_precision(learners, jnp.float64)
        numbers = jax.tree.map(jnp.asarray, (moments, near, times, rtol, atol))
        values, learners = _integrate(learners, numbers, measure)
    if not np.isfinite(values["risk"]).all():
        raise InputError(
            f"the flow needs more than {MOST_STEPS} steps to reach time {times[-1]:g}; use "
            "earlier times, or a smaller scale of the task."
        )
    metrics = xr.Dataset(
        {name: (_dims(name, value.ndim), np.asarray(value)) for name, value in values.items()},
        {"seed": np.arange(seeds), "time": times},
    )
    return Training(in_precision(learners, jnp.float32), metrics)


@eqx.filter_jit
def _integrate(learners, numbers, measure):
    """What is measured at each time, and the last learners; compiled once for tasks of one size."""
    moments, near, times, rtol, atol = numbers
    parameters, frozen = eqx.partition(learners, learners.trainable())

    def run(parameters, frozen):
        def risk(parameters):
            return population_risk(eqx.combine(parameters, frozen), moments)

        def velocity(time, parameters, _):
            return jax.tree.map(jnp.negative, jax.grad(risk)(parameters))

        def arrived(time, parameters, _, **options):
            value, slope = jax.value_and_grad(risk)(parameters)
            return (optax.tree.norm(slope) < STATIONARY) & (value <= near)

        def kept(parameters):
            measured = {} if measure is None else measure(eqx.combine(parameters, frozen))
            return {"risk": risk(parameters), **measured}

        at_times = diffrax.SubSaveAt(ts=times, fn=lambda t, y, _: kept(y))
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Tsit5(),
            0.0,
            times[-1],
            None,
            parameters,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            saveat=diffrax.SaveAt(subs=[at_times, diffrax.SubSaveAt(t1=True)]),
            event=diffrax.Event(arrived),
            max_steps=MOST_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        values, last = solution.ys
        last = jax.tree.map(lambda leaf: leaf[0], last)
        # Diffrax leaves infinity at times after the event, where the flow stands still
        ended = solution.result == diffrax.RESULTS.event_occurred
        after = ended & jnp.isinf(values["risk"])
        held = jax.vmap(lambda over, value, end: jnp.where(over, end, value), (0, 0, None))
        return jax.tree.map(lambda *leaves: held(after, *leaves), values, kept(last)), last

    # One seed after the other: in a vmap all seeds would take as many steps as the slowest
    values, last = jax.lax.map(lambda each: run(*each), (parameters, frozen))
    return values, eqx.combine(last, frozen)


def _dims(name: str, dimensions: int) -> tuple[str, ...]:
    return ("seed", "time", *(f"{name}_{axis}" for axis in range(dimensions - 2)))
