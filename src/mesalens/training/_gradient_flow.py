"""Gradient flow: training with infinite batches and infinitely small steps."""

from collections.abc import Callable, Sequence

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
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.training.objectives.population import Population
from mesalens.training.training import Training

MOST_STEPS = 100_000
STATIONARY = 1e-9
"""The norm of the gradient below which the flow has arrived. Near usual initial weights, which are
near a saddle, it is 1e-6 and more."""


def gradient_flow(
    initialise: Callable[[Key[Array, ""]], Learner],
    task: Task,
    times: Sequence[float] | Float[np.ndarray, " times"],
    *,
    seeds: int = 1,
    key: Key[Array, ""],
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> Training:
    """The solution of dθ/dt = -∂R/∂θ, R the exact risk of one layer of linear self-attention.

    Integrated in float64 by Tsitouras' 5(4) method with adaptive steps (`diffrax.Tsit5`), until it
    has arrived or the last time is reached. The equations are stiff: if d or the inputs are large,
    expect minutes.

    Args:
        initialise: `initialise(key)`, a layer at time 0. Seed i has the weights from which `train`
            starts it.
        task: What the risk is of.
        times: Two or more times, which increase from 0 or above.
        seeds: The number of runs.
        key: A random key.
        rtol: The relative tolerance of a step.
        atol: The absolute tolerance of a step.

    Returns:
        The result of `train` with the population objective, with the dimension `time` in place of
        `step`: `risk` at each of the times, and the learners at the last.

    Raises:
        ValueError: if the times do not increase from 0 or above, the risk is not known exactly, or
            the flow does not reach the last time.
    """
    count("seeds", seeds)
    times = np.asarray(times, np.float64)
    rising = times.ndim == 1 and len(times) > 1 and times[0] >= 0 and (np.diff(times) > 0).all()
    if not (rising and np.isfinite(times[-1])):
        raise InputError("times must be two or more that increase from 0 or above.")
    loss = Population().loss(task, 1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.arange(seeds))
    start = eqx.filter_jit(eqx.filter_vmap(lambda key: initialise(jax.random.split(key, 3)[0])))
    learners = start(keys)

    def integrate(parameters, frozen):
        def risk(parameters):
            return loss(eqx.combine(parameters, frozen), jax.random.key(0))

        def velocity(time, parameters, _):
            return jax.tree.map(jnp.negative, jax.grad(risk)(parameters))

        def arrived(time, parameters, _, **options):
            return optax.tree.norm(jax.grad(risk)(parameters)) < STATIONARY

        at_times = diffrax.SubSaveAt(ts=jnp.asarray(times), fn=lambda t, y, _: risk(y))
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
        risks, last = solution.ys
        last = jax.tree.map(lambda leaf: leaf[0], last)
        # Diffrax leaves infinity at times after the event, where nothing moves any more
        ended = solution.result == diffrax.RESULTS.event_occurred
        return jnp.where(ended & jnp.isinf(risks), risk(last), risks), last

    with jax.enable_x64(True):
        learners = in_precision(learners, jnp.float64)
        parameters, frozen = eqx.partition(learners, learners.trainable())
        # One seed after the other: in a vmap all would take as many steps as the slowest
        each = eqx.filter_jit(lambda p, f: jax.lax.map(lambda run: integrate(*run), (p, f)))
        risks, parameters = each(parameters, frozen)
    if not np.isfinite(risks).all():
        raise InputError(
            f"the flow needs more than {MOST_STEPS} steps to reach time {times[-1]:g}; give "
            "earlier times, or a smaller scale of the task."
        )
    metrics = xr.Dataset(
        {"risk": (("seed", "time"), np.asarray(risks))}, {"seed": np.arange(seeds), "time": times}
    )
    return Training(in_precision(eqx.combine(parameters, frozen), jnp.float32), metrics)
