"""Population training on a pool of tasks beside training on one Gaussian task: the time of a step,
and that of the moments.

Once the moments are there, both are the same polynomial of the weights. The two take turns.
"""

import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from ways import Repeated, described, in_turns

from mesalens import LinearTransformer, random
from mesalens.tasks import FinitePool, Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import task_moments
from mesalens.training import Population
from mesalens.training.problem import Problem, State, take_steps

STEPS, DIM, TASKS = 500, 10, 64


def steps_on(task):
    """Compiled calls of `STEPS` steps of Adam on the exact risk; the seconds of the moments."""
    task.sample(jax.random.key(0))  # draws the pool
    begun = time.perf_counter()
    task_moments(task)
    seconds = time.perf_counter() - begun
    with jax.enable_x64(True):
        layer = LinearTransformer.initialise(task.dim, key=jax.random.key(0))
        layer = jax.tree.map(lambda leaf: leaf.astype(np.float64), layer)
        problem = Problem(lambda key: layer, task, optax.adam(1e-3))
        zero = np.zeros((), np.int32)
        parameters, rest = eqx.partition(layer, layer.trainable())
        frozen, static = eqx.partition(rest, eqx.is_array)
        state = State(parameters, frozen, problem.optimiser.init(parameters), zero, zero)
        loss, key = Population().loss(task, 1), random.unroll(random.key(0))

        @jax.jit
        def call(state):
            return take_steps(problem, loss, 1, static, key, state, np.arange(STEPS))[1][0]

    def steps():
        with jax.enable_x64(True):
            return call(state)

    return Repeated(steps, STEPS), seconds


def measured(rounds: int) -> dict[str, Any]:
    """The numbers of both tasks."""

    def task(functions: Any) -> RegressionTask:
        options = {"context_length": 10, "noise": GaussianNoise(0.1)}
        return RegressionTask(Gaussian(DIM), functions, **options)

    steps_on(task(LinearFunctions(DIM)))  # what the first call in a process loads
    tasks = {"one Gaussian task": LinearFunctions(DIM), "pool": FinitePool(DIM, size=TASKS)}
    ways = {name: steps_on(task(functions)) for name, functions in tasks.items()}
    seconds = in_turns({name: way for name, (way, _) in ways.items()}, rounds)
    found = {
        name: described(way, seconds[name]) | {"moments_seconds": moments}
        for name, (way, moments) in ways.items()
    }
    return {"rows": [{"name": f"d = {DIM}, {TASKS} tasks", "ways": found}]}


PARTS = {"pools": measured}
"""What measures each part, from the number of rounds."""
