"""Which of JAX's generators of random numbers is the fastest here: to draw a batch of prompts, and
in a whole training step.

- unrolled: Threefry with its rounds written out, the `threefry` of `mesalens.random.key`;
- threefry2x32: JAX's own default, `rbg` and `unsafe_rbg`: XLA's generator, whose numbers depend on
  the device and on XLA's version.

A draw is a compiled call whose prompts are all written to memory; a step is taken in a compiled
loop of 20. The generators of a case take turns. Printed are medians over the rounds, with the least
and the greatest, and those of the times over the unrolled generator's, round by round.

    python benchmarks/generators.py [--rounds N]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from limits import conditions, spread
from rich.console import Console
from tables import columns, with_spread
from ways import BLOCK_SECONDS, in_turns

from mesalens import random
from mesalens.training import SquaredError, TrainingSettings

STEPS = 20
UNROLLED = "unrolled"
GENERATORS = {UNROLLED: random.key(0, "threefry")} | {
    name: jax.random.key(0, impl=name) for name in ("threefry2x32", "rbg", "unsafe_rbg")
}
UNIFORM = {"covariates": {"kind": "uniform", "scale": 0.5}}
CASES = {
    "L = 1, n = 10, batch 2048": TrainingSettings(task=UNIFORM),
    "L = 1, n = 200, batch 256": TrainingSettings(
        task={**UNIFORM, "context_length": 200}, batch_size=256
    ),
    "L = 5, n = 10, batch 2048": TrainingSettings(task=UNIFORM, model={"layers": 5}),
    "L = 1, n = 10, batch 2048, Gaussian inputs": TrainingSettings(
        task={"covariates": {"kind": "gaussian", "scale": 0.5}}
    ),
    "L = 5, n = 200, batch 256, Gaussian inputs, S drawn": TrainingSettings(
        task={
            "context_length": 200,
            "covariates": {"kind": "gaussian", "scale": 0.2},
            "condensed": True,
        },
        model={"layers": 5},
        batch_size=256,
    ),
}


class Repeated:
    """A compiled call that is made again and again, and counts as so many steps."""

    def __init__(self, call: Callable[[], Any], steps: int):
        self._call, self._steps, self._calls = call, steps, 1
        self.block()  # compiles
        self._calls = max(1, int(BLOCK_SECONDS / self.block() / steps))

    def block(self) -> float:
        """Seconds a step, over a block of calls."""
        started = time.perf_counter()
        result = None
        for _ in range(self._calls):
            result = self._call()
        jax.block_until_ready(result)
        return (time.perf_counter() - started) / self._calls / self._steps


def drawing(settings: TrainingSettings, key) -> Repeated:
    """A batch of prompts."""
    task = settings.sampled_task()
    draw = jax.jit(lambda key: task.sample(key, (settings.batch_size,)))
    return Repeated(lambda: draw(key), 1)


def training(settings: TrainingSettings, key) -> Repeated:
    """Steps from the weights before training."""
    loss = SquaredError().loss(settings.sampled_task(), settings.batch_size)
    optimiser = settings.optimiser.build().transformation(settings.steps)

    def step(weights, key):
        learner, optimiser_state = weights
        gradients = jax.grad(loss)(learner, key)
        updates, optimiser_state = optimiser.update(gradients, optimiser_state)
        return (eqx.apply_updates(learner, updates), optimiser_state), None

    @jax.jit
    def steps(key):
        learner = settings.initialise(jax.random.key(0))
        weights = learner, optimiser.init(eqx.filter(learner, eqx.is_array))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(STEPS))
        return jax.lax.scan(step, weights, keys)[0]

    return Repeated(lambda: steps(key), STEPS)


def main() -> None:
    """Measures every case and prints a table with a row for each generator, then which is the
    fastest.
    """
    parser = argparse.ArgumentParser(
        description="Which of JAX's generators of random numbers is the fastest here."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (5)")
    rounds = parser.parse_args().rounds
    table = columns(
        "case", "generator", "ms/draw", "over unrolled", "ms/step", "over unrolled", "fastest step"
    )
    for case, settings in CASES.items():
        seconds = []
        for program in (drawing, training):
            ways = {name: program(settings, key) for name, key in GENERATORS.items()}
            seconds.append(in_turns(ways, rounds))
        fastest = min(GENERATORS, key=lambda name: spread(seconds[1][name])["median"])
        for name in GENERATORS:
            cells = []
            for of_program in seconds:
                ratio = spread(of_program[name] / of_program[UNROLLED])
                cells += [
                    with_spread(spread(1e3 * of_program[name]), ".2f"),
                    with_spread(ratio, ".2f"),
                ]
            table.add_row(
                case if name == UNROLLED else "", name, *cells, "*" if name == fastest else ""
            )
    Console(width=180, highlight=False).print(table)
    print("; ".join(f"{name}: {value}" for name, value in conditions(rounds).items() if value))


if __name__ == "__main__":
    main()
