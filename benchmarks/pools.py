"""Population training on a pool of tasks beside training on one Gaussian task: the time of a step,
and that of the moments.

Once the moments are there, both are the same polynomial of the weights. The two take turns; printed
are medians over the rounds, with the least and the greatest, and those of their ratios.

    python benchmarks/pools.py [--rounds N] [--dim D] [--tasks M]
"""

import argparse
import time

import equinox as eqx
import jax
import numpy as np
import optax

from mesalens import LinearTransformer, random
from mesalens.tasks import FinitePool, Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import task_moments
from mesalens.training import Population
from mesalens.training.problem import Problem, State, take_steps

STEPS = 500


def steps_on(task):
    """A compiled call of `STEPS` steps of Adam on the exact risk; the seconds of the moments."""
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

        call(state).block_until_ready()

    def timed():
        with jax.enable_x64(True):
            begun = time.perf_counter()
            call(state).block_until_ready()
            return (time.perf_counter() - begun) / STEPS

    return timed, seconds


def spread(values):
    """Median, least and greatest."""
    return f"{np.median(values):.3g} [{min(values):.3g}..{max(values):.3g}]"


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=64)
    given = parser.parse_args()

    def task(functions):
        options = {"context_length": 10, "noise": GaussianNoise(0.1)}
        return RegressionTask(Gaussian(given.dim), functions, **options)

    steps_on(task(LinearFunctions(given.dim)))  # what the first call in a process loads
    one, of_one = steps_on(task(LinearFunctions(given.dim)))
    pool, of_pool = steps_on(task(FinitePool(given.dim, size=given.tasks)))
    rounds = [(1e3 * one(), 1e3 * pool()) for _ in range(given.rounds)]
    ones, pools = zip(*rounds, strict=True)
    print(f"d = {given.dim}, {given.tasks} tasks, {given.rounds} rounds of {STEPS} steps")
    print(f"one Gaussian task   {spread(ones)} ms/step, moments {of_one:.3g} s")
    print(f"pool of tasks       {spread(pools)} ms/step, moments {of_pool:.3g} s")
    print(f"pool over one       {spread([p / o for o, p in rounds])}")


if __name__ == "__main__":
    main()
