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

from mesalens.checks import InputError, count
from mesalens.learners import Learner
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.training.engine import in_precision
from mesalens.training.objective import population
from mesalens.training.training import Training

MOST_STEPS = 100_000
STATIONARY = 1e-9
"""The flow has arrived where the norm of the gradient is below this; paper-like initial weights are at 1e-6 and above."""


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
    """Follows dθ/dt = -∂R/∂θ from `initialise(key)` at time 0, R the exact risk of one layer of linear self-attention.

    The result is that of `train` with the population objective, with the dimension `time` in place of `step`: `risk` at each of the
    times, and the learners at the last. Seed i starts from the weights from which `train` starts it. Integrated in float64 by
    Tsitouras' 5(4) method with adaptive steps (`diffrax.Tsit5`) to the relative and absolute tolerance `rtol` and `atol` a step, until
    it has arrived or the last time is reached. The equations are stiff: where d is large or inputs are, expect minutes.

    Raises `ValueError` where the times do not increase from 0 or above, or the risk is not known exactly.
    """
    count("seeds", seeds)
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise InputError("the times do not increase from 0 or above; give at least two, as np.linspace(0, 1000, 101).")
    loss = population(task)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.arange(seeds))
    learners = eqx.filter_jit(eqx.filter_vmap(lambda k: initialise(jax.random.split(k, 3)[0])))(keys)

    def integrate(parameters, frozen):
        def risk(parameters):
            return loss(eqx.combine(parameters, frozen), jax.random.key(0))

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, parameters, _: jax.tree.map(jnp.negative, jax.grad(risk)(parameters))),
            diffrax.Tsit5(),
            0.0,
            times[-1],
            None,
            parameters,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            saveat=diffrax.SaveAt(
                subs=[
                    diffrax.SubSaveAt(ts=jnp.asarray(times), fn=lambda t, parameters, _: risk(parameters)),
                    diffrax.SubSaveAt(t1=True),
                ]
            ),
            event=diffrax.Event(
                lambda t, parameters, _, **__: optax.tree.norm(jax.grad(risk)(parameters)) < STATIONARY
            ),
            max_steps=MOST_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        risks, last = solution.ys
        last = jax.tree.map(lambda leaf: leaf[0], last)
        arrived = solution.result == diffrax.RESULTS.event_occurred
        return jnp.where(arrived & jnp.isinf(risks), risk(last), risks), last

    with jax.enable_x64(True):
        learners = in_precision(learners, jnp.float64)
        parameters, frozen = eqx.partition(learners, learners.trainable())
        # One seed after the other: in a vmap all would take as many steps as the slowest
        risks, parameters = eqx.filter_jit(lambda p, f: jax.lax.map(lambda pf: integrate(*pf), (p, f)))(
            parameters, frozen
        )
    if not np.isfinite(risks).all():
        raise InputError(
            f"the flow needs more than {MOST_STEPS:,} steps to reach time {times[-1]:g}; give earlier times, or a smaller scale of the task."
        )
    metrics = xr.Dataset({"risk": (("seed", "time"), np.asarray(risks))}, {"seed": np.arange(seeds), "time": times})
    return Training(in_precision(eqx.combine(parameters, frozen), jnp.float32), metrics)
