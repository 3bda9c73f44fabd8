"""Which of JAX's generators of random numbers is the fastest here: to draw a batch of prompts, and
in a whole training step.

- unrolled: Threefry with its rounds written out, the `threefry` of `mesalens.random.key`;
- threefry2x32: JAX's own default, `rbg` and `unsafe_rbg`: XLA's generator, whose numbers depend on
  the device and on XLA's version.

A draw is a compiled call whose prompts are all written to memory; a step is taken in a compiled
loop of 20. The generators of a case take turns.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import limits
from ways import Repeated, described, in_turns

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


def drawing(settings: TrainingSettings, key) -> Repeated:
    """A batch of prompts."""
    task = settings.sampled_task()
    draw = jax.jit(lambda key: task.sample(key, (settings.batch_size,)))
    return Repeated(lambda: draw(key))


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


def measured(rounds: int) -> dict[str, Any]:
    """The numbers of all cases: a draw and a step with each generator."""
    rows = []
    for case, settings in CASES.items():
        limits.say(f"  {case}")
        for kind, program in {"draw": drawing, "step": training}.items():
            ways = {name: program(settings, key) for name, key in GENERATORS.items()}
            seconds = in_turns(ways, rounds)
            of_ways = {name: described(way, seconds[name]) for name, way in ways.items()}
            rows.append({"name": f"{case}: {kind}", "ways": of_ways})
    return {"rows": rows}


PARTS = {"generators": measured}
"""What measures each part, from the number of rounds."""
