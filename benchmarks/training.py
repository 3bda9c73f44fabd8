"""How fast mesalens trains, beside the textbook way.

Both ways train L unshared layers of linear self-attention on the same regression task (d = 10, m = 1,
x ~ U[-1/2, 1/2]^d, w ~ N(0, I), a fresh batch of prompts at each step) with the same optimiser (Adam at rate
1e-3 with b2 = 0.98, gradients cut to norm 1e-3), in float32 and for one seed:

- mesalens: `TrainingSettings(...).train()`, what users call, with its own checks between compiled chunks;
- textbook: a Python loop around one jitted step, with a key for each example, and attention of every token to
  all context tokens. It is written out below and uses nothing of mesalens.

Before a case is timed, both are given the same weights and prompts and must agree on predictions, loss and
gradients. Then they take turns in one process: a round is one compiled chunk of mesalens and, in the callback
that mesalens makes after it, one block of textbook steps. Compilation is not timed. The ratio, textbook over
mesalens, is taken in each round; printed are medians over the rounds, with the smallest and the largest.

Memory is XLA's own count for the largest program that each way compiles: arguments, results and temporary
buffers, less the results that take the place of arguments. It leaves out Python, JAX and the compiler, which
need hundreds of MB in both ways.

A second table has what a context costs as it grows, for mesalens alone: five layers, batch 256, Gaussian inputs and contexts drawn as
S itself (`condensed`); and the memory of a step on whole contexts of 10 000 examples, batch 8, in both ways (compiled, not run).

    python benchmarks/training.py [--rounds N] [--json]
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from mesalens import LinearTransformer, Prompt, random
from mesalens.report import environment
from mesalens.tasks import Task
from mesalens.training import TrainingSettings, batch_loss

DIM = 10


class Case(NamedTuple):
    """What is trained, how many steps a round times, and how many times faster mesalens is to be."""

    layers: int
    context_length: int
    batch_size: int
    mesalens_steps: int
    textbook_steps: int
    target: float | None


CASES = (
    Case(1, 10, 2048, mesalens_steps=200, textbook_steps=30, target=5),
    Case(5, 10, 2048, mesalens_steps=40, textbook_steps=8, target=5),
    Case(1, 200, 256, mesalens_steps=150, textbook_steps=5, target=20),
    Case(5, 200, 256, mesalens_steps=60, textbook_steps=2, target=40),
)


CONTEXT_LENGTHS = (10, 200, 10_000, 1_000_000)
LONG = Case(5, 10_000, 8, mesalens_steps=1, textbook_steps=1, target=None)


# The textbook way


def draw_prompt(key, context_length):
    """Tokens (x_i, y_i) of the context and (x_query, 0) of the query, one a row, and y_query."""
    x_key, w_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (context_length + 1, DIM), minval=-0.5, maxval=0.5)
    y = x @ jax.random.normal(w_key, (DIM,))
    return jnp.column_stack([x, y.at[-1].set(0.0)]), y[-1]


def textbook_weights(key, layers, scale):
    """Small random normals for the four factors of each layer."""
    shape = (DIM + 1, DIM + 1)
    return [
        {
            name: scale * jax.random.normal(k, shape)
            for name, k in zip("QKVP", jax.random.split(layer_key, 4), strict=True)
        }
        for layer_key in jax.random.split(key, layers)
    ]


def textbook_prediction(weights, tokens):
    """Minus the y-part of the query token, after every layer has changed every token."""
    for layer in weights:
        queries, keys, values = tokens @ layer["Q"].T, tokens[:-1] @ layer["K"].T, tokens[:-1] @ layer["V"].T
        scores = queries @ keys.T
        tokens = tokens + (scores @ values) @ layer["P"].T
    return -tokens[-1, -1]


def draw_batch(key, context_length, batch_size):
    """Tokens and targets, with a key for each example."""
    return jax.vmap(draw_prompt, (0, None))(jax.random.split(key, batch_size), context_length)


def textbook_loss(weights, tokens, targets):
    """Mean squared error over a batch."""
    predictions = jax.vmap(textbook_prediction, (None, 0))(weights, tokens)
    return jnp.mean((predictions - targets) ** 2)


def textbook_training(case: Case) -> Callable[[int], None]:
    """The function that takes a number of steps further and waits until they are done."""
    optimiser = optax.chain(optax.clip_by_global_norm(1e-3), optax.adam(1e-3, b2=0.98))
    weights = textbook_weights(jax.random.key(0), case.layers, scale=(0.002 / case.layers / (DIM + 1)) ** 0.5)
    state = weights, optimiser.init(weights), jax.random.key(1)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        weights, optimiser_state, key = state
        key, batch_key = jax.random.split(key)
        batch = draw_batch(batch_key, case.context_length, case.batch_size)
        loss, gradients = jax.value_and_grad(textbook_loss)(weights, *batch)
        updates, optimiser_state = optimiser.update(gradients, optimiser_state)
        return (optax.apply_updates(weights, updates), optimiser_state, key), loss

    def advance(steps):
        nonlocal state
        for _ in range(steps):
            state, _ = step(state)
        jax.block_until_ready(state)

    return advance


# The comparison


class GivenPrompts(Task):
    """One batch of the textbook's prompts, for mesalens' loss."""

    tokens: jax.Array
    targets: jax.Array

    def sample(self, key, shape=()):
        """Always that batch."""
        prompts = Prompt(self.tokens[:, :-1, :DIM], self.tokens[:, :-1, DIM:], self.tokens[:, -1, :DIM])
        return prompts, self.targets[:, None]


def as_transformer(weights, layers: int) -> LinearTransformer:
    """The textbook's weights, or their gradients, in mesalens' model."""
    stacked = {name: jnp.stack([layer[name] for layer in weights])[:, None] for name in "QKVP"}
    return LinearTransformer(stacked["Q"], stacked["K"], stacked["V"], stacked["P"], layers=layers)


def check_same_work(case: Case, batch_size: int = 32) -> None:
    """Raises `AssertionError` unless both ways compute the same from the same weights and prompts."""
    scale = 0.1 * (10 / case.context_length) ** 0.25  # so large that every layer matters, and none explodes
    weights = textbook_weights(jax.random.key(2), case.layers, scale)
    key = jax.random.key(3)
    batch = jax.jit(draw_batch, static_argnums=(1, 2))(key, case.context_length, batch_size)

    @jax.jit
    def textbook(weights, tokens, targets):
        predictions = jax.vmap(textbook_prediction, (None, 0))(weights, tokens)
        return predictions, *jax.value_and_grad(textbook_loss)(weights, tokens, targets)

    @jax.jit
    def mesalens(transformer, tokens, targets):
        task = GivenPrompts(tokens, targets)
        prompts, _ = task.sample(key)
        loss_and_gradients = jax.value_and_grad(lambda t: batch_loss(t, task, key, batch_size))
        return jax.vmap(transformer)(prompts)[:, 0], *loss_and_gradients(transformer)

    predictions, loss, gradients = textbook(weights, *batch)
    expected = predictions, loss, as_transformer(gradients, case.layers)
    jax.tree.map(assert_close, mesalens(as_transformer(weights, case.layers), *batch), expected)


def assert_close(ours, theirs) -> None:
    """Finite, and equal up to the rounding of float32, small entries measured by the largest one."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(), equal_nan=False)


def live_programs() -> set[Any]:
    """All that XLA has compiled and keeps."""
    return set(jax.devices()[0].client.live_executables())


def largest_memory(programs: set[Any]) -> int:
    """Bytes of arguments, results and temporary buffers of the largest of the programs."""
    stats = [program.get_compiled_memory_stats() for program in programs]
    return max(
        s.argument_size_in_bytes + s.output_size_in_bytes + s.temp_size_in_bytes - s.alias_size_in_bytes for s in stats
    )


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times both ways in turns."""
    seconds: dict[str, list[float]] = {"mesalens": [], "textbook": []}
    memory: dict[str, int] = {}

    before = live_programs()
    textbook = textbook_training(case)
    textbook(2)
    memory["textbook"] = largest_memory(live_programs() - before)
    before = live_programs()

    def after_chunk(done: int) -> None:
        nonlocal resumed
        reached = time.perf_counter()
        if done == case.mesalens_steps:  # the chunk that was compiled
            memory["mesalens"] = largest_memory(live_programs() - before)
        else:
            seconds["mesalens"].append((reached - resumed) / case.mesalens_steps)
            seconds["textbook"].append(timed(textbook, case.textbook_steps))
        resumed = time.perf_counter()

    resumed = time.perf_counter()
    TrainingSettings(
        dim=DIM,
        context_length=case.context_length,
        layers=case.layers,
        batch_size=case.batch_size,
        steps=(rounds + 1) * case.mesalens_steps,
        every=case.mesalens_steps,
    ).train(progress=after_chunk)
    return summary(case, seconds, memory)


def cost_of_contexts(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds a step and memory at each context length, contexts drawn as S; the lengths take turns."""
    every = 40
    seconds: dict[int, list[float]] = {length: [] for length in CONTEXT_LENGTHS}
    memory: dict[int, int] = {}

    def chunks(length: int) -> Iterator[None]:
        """One chunk of steps at a time."""
        task = gaussian(length, 256).sampled_task()
        settings = gaussian(length, 256)
        learner, optimiser = settings.initialise(jax.random.key(0)), settings.optimiser()
        state = learner, optimiser.init(eqx.filter(learner, eqx.is_array)), random.key(1)

        @functools.partial(jax.jit, donate_argnums=0)
        def advance(state):
            def step(state, _):
                learner, optimiser_state, key = state
                key, batch_key = jax.random.split(key)
                gradients = jax.grad(batch_loss)(learner, task, batch_key, settings.batch_size)
                updates, optimiser_state = optimiser.update(gradients, optimiser_state)
                learner = eqx.apply_updates(learner, updates)
                return (learner, optimiser_state, key), None

            return jax.lax.scan(step, state, length=every)[0]

        before = live_programs()
        state = jax.block_until_ready(advance(state))
        memory[length] = largest_memory(live_programs() - before)
        while True:
            yield
            started = time.perf_counter()
            state = jax.block_until_ready(advance(state))
            seconds[length].append((time.perf_counter() - started) / every)

    running = {length: chunks(length) for length in CONTEXT_LENGTHS}
    for of_length in running.values():
        next(of_length)
    for _ in range(rounds):
        for of_length in running.values():
            next(of_length)
    first = np.array(seconds[CONTEXT_LENGTHS[0]])
    return [
        {
            "context_length": length,
            "ms_per_step": spread(1e3 * np.array(seconds[length])),
            "relative_to_first": spread(np.array(seconds[length]) / first),
            "memory_bytes": memory[length],
        }
        for length in CONTEXT_LENGTHS
    ]


def gaussian(context_length: int, batch_size: int, *, condensed: bool = True) -> TrainingSettings:
    """Five layers on Gaussian inputs."""
    return TrainingSettings(
        dim=DIM,
        context_length=context_length,
        layers=5,
        covariates="gaussian",
        scale=1.0,
        batch_size=batch_size,
        condensed=condensed,
    )


def memory_of_long_contexts() -> dict[str, int]:
    """Bytes of one gradient on whole contexts of 10 000 examples, in both ways."""
    key = jax.random.key(0)
    weights = textbook_weights(key, LONG.layers, 0.01)
    settings = gaussian(LONG.context_length, LONG.batch_size, condensed=False)
    task = settings.task()

    def textbook(weights):
        return jax.grad(textbook_loss)(weights, *draw_batch(key, LONG.context_length, LONG.batch_size))

    def mesalens(transformer):
        return jax.grad(batch_loss)(transformer, task, random.key(0), LONG.batch_size)

    programs = {"textbook": (textbook, weights), "mesalens": (mesalens, as_transformer(weights, LONG.layers))}
    return {
        name: largest_memory({jax.jit(function).lower(argument).compile().runtime_executable()})
        for name, (function, argument) in programs.items()
    }


def timed(advance: Callable[[int], None], steps: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    advance(steps)
    return (time.perf_counter() - started) / steps


def summary(case: Case, seconds: dict[str, list[float]], memory: dict[str, int]) -> dict[str, Any]:
    """The numbers of a case; those over rounds as median, least and greatest."""
    ratios = np.divide(seconds["textbook"], seconds["mesalens"])
    ways = {
        way: {
            "ms_per_step": spread(1e3 * np.array(seconds[way])),
            "prompts_per_second": case.batch_size / float(np.median(seconds[way])),
            "memory_bytes": memory[way],
        }
        for way in ("mesalens", "textbook")
    }
    sizes = {"layers": case.layers, "context_length": case.context_length, "batch_size": case.batch_size}
    return {**sizes, **ways, "ratio": spread(ratios), "target": case.target}


def spread(values) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values))}


def conditions(rounds: int) -> dict[str, str]:
    """Where, when and with what the numbers were taken."""
    found = {**environment(), "Optax": version("optax"), "Equinox": version("equinox")}
    return {**found, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "rounds": str(rounds)}


def table(results: list[dict[str, Any]]) -> Table:
    """One row a case."""
    heads = ("L", "n", "batch", "mesalens\nms/step", "textbook\nms/step", "ratio", "target")
    heads += ("mesalens\nprompts/s", "textbook\nprompts/s", "mesalens\nMB", "textbook\nMB")
    shown = Table(*heads, box=None, pad_edge=False)
    for column in shown.columns:
        column.justify = "right"
        column.no_wrap = True
    for result in results:
        ours, theirs = result["mesalens"], result["textbook"]
        shown.add_row(
            *(str(result[size]) for size in ("layers", "context_length", "batch_size")),
            with_spread(ours["ms_per_step"], ".2f"),
            with_spread(theirs["ms_per_step"], ".1f"),
            with_spread(result["ratio"], ".1f"),
            verdict(result),
            *(f"{way['prompts_per_second']:,.0f}" for way in (ours, theirs)),
            *(f"{way['memory_bytes'] / 1e6:.1f}" for way in (ours, theirs)),
        )
    return shown


def context_table(contexts: list[dict[str, Any]]) -> Table:
    """One row a context length."""
    shown = Table("n", "ms/step", "over n = 10", "MB", box=None, pad_edge=False)
    for column in shown.columns:
        column.justify = "right"
    for at in contexts:
        ratio = with_spread(at["relative_to_first"], ".2f")
        shown.add_row(
            f"{at['context_length']:,}", with_spread(at["ms_per_step"], ".2f"), ratio, f"{at['memory_bytes'] / 1e6:.1f}"
        )
    return shown


def with_spread(values: dict[str, float], form: str) -> str:
    """A median and its range over rounds."""
    return f"{values['median']:{form}} [{values['min']:{form}}..{values['max']:{form}}]".replace("[", r"\[")


def verdict(result: dict[str, Any]) -> str:
    """The least ratio that is wanted, and whether the median reaches it."""
    if result["target"] is None:
        return "none"
    return f">= {result['target']:g}: {'met' if result['ratio']['median'] >= result['target'] else 'MISSED'}"


def main() -> None:
    """Measures every case and prints what came out."""
    parser = argparse.ArgumentParser(description="How fast mesalens trains, beside the textbook way.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each case (7)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON alone")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    results = []
    for case in CASES:
        print(
            f"L = {case.layers}, n = {case.context_length}, batch {case.batch_size} ...",
            file=sys.stderr,
            flush=True,
        )
        check_same_work(case)
        results.append(measure(case, options.rounds))

    print("contexts drawn as S ...", file=sys.stderr, flush=True)
    contexts, long = cost_of_contexts(options.rounds), memory_of_long_contexts()

    found = conditions(options.rounds)
    if options.json:
        print(
            json.dumps(
                {"conditions": found, "cases": results, "contexts": contexts, "memory_of_long_contexts": long}, indent=2
            )
        )
        return
    Console(width=150, highlight=False).print(table(results))
    print("\nMedian [min..max] over rounds; ratio = textbook / mesalens, round by round.")
    print("MB: arguments, results and temporary buffers of the largest compiled program, counted by XLA.")
    print(
        "\nFive layers, batch 256, Gaussian inputs, contexts drawn as S; times over the time at n = 10, round by round."
    )
    Console(width=150, highlight=False).print(context_table(contexts))
    print(
        f"\nOne gradient on whole contexts of {LONG.context_length} examples, five layers, batch {LONG.batch_size}: "
        + ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in long.items())
        + "."
    )
    print("; ".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
