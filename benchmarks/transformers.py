"""How fast a training step of the study's transformers is, beside the textbook way.

Two models of von Oswald et al. (2023) at the sizes of the paper, batches of 2048 prompts: two
layers on interleaved tokens, softmax first (`copying`), and an MLP under one linear layer (`sine`).
Both ways have the same weights, prompts and loss, and must agree on loss and gradients before they
are timed:

- mesalens: `Transformer`, whose last layer is computed for the query alone, whose attention
  multiplies `W_K^T W_Q` and `P W_V` once for all prompts, and whose input projection and MLP are
  multiplied together;
- textbook: queries, keys and values of every row in every layer, the MLP on the projected rows.

They take turns in one process, a few gradient steps in one compiled loop each. Printed are medians
over the rounds of milliseconds a step and of the ratio, textbook over mesalens, with the smallest
and the largest.

    python benchmarks/transformers.py [--rounds N]
"""

import argparse
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mesalens import Prompt, Transformer, random
from mesalens.environment import environment
from mesalens.models import Interleaved, LinearAttention, Sinusoidal, SoftmaxAttention
from mesalens.tasks import LinearFunctions, RegressionTask, SineWaves, Task, Uniform

BATCH, STEPS = 2048, 10

CASES: dict[str, tuple[Task, Transformer]] = {
    "copying": (
        RegressionTask(Uniform(10, 0.5), LinearFunctions(10), context_length=10),
        Transformer.initialise(
            10,
            layers=2,
            attention=LinearAttention(),
            first_attention=SoftmaxAttention(),
            tokens=Interleaved(),
            positions=Sinusoidal(10),
            init_scale=0.5,
            key=random.key(0),
        ),
    ),
    "sine": (
        RegressionTask(Uniform(1, 5.0), SineWaves(1), context_length=10),
        Transformer.initialise(
            1,
            attention=LinearAttention(),
            embedding_size=40,
            input_mlp_widening=4,
            init_scale=0.1,
            key=random.key(0),
        ),
    ),
}


def textbook(model: Transformer, prompt: Prompt) -> jax.Array:
    """The prediction, row by row as the formulas stand."""
    rows = model.tokens(prompt)
    embedding = model.embedding
    if embedding.projection is not None:
        rows = jax.vmap(embedding.projection)(rows)
    if embedding.mlp is not None:
        rows = rows + jax.vmap(embedding.mlp)(rows)
    if embedding.positions is not None:
        rows = jnp.concatenate([rows, embedding.positions(len(rows))], axis=1)
    for layer in model.stored_layers:
        attention = layer.attention
        queries = jnp.einsum("td,hkd->htk", rows, attention.W_Q)
        keys = jnp.einsum("td,hkd->htk", rows[:-1], attention.W_K)
        values = jnp.einsum("td,hkd->htk", rows[:-1], attention.W_V)
        weights = jnp.einsum("htk,hsk->hts", queries, keys)
        if isinstance(attention.kind, SoftmaxAttention):
            weights = jax.nn.softmax(weights / attention.W_Q.shape[1] ** 0.5)
        rows = rows + jnp.einsum("hts,hsk,hdk->td", weights, values, attention.P)
    width = embedding.token_width(prompt.dim + prompt.outputs)
    return -rows[-1, width - prompt.outputs : width]


def compared(task: Task, model: Transformer, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a step of both ways, round by round; raises where they do not compute the same."""
    prompts, targets = task.sample(random.key(1), (BATCH,))
    parameters, fixed = eqx.partition(model, model.trainable())

    def loss(predict: Callable, parameters) -> jax.Array:
        model = eqx.combine(parameters, fixed)
        return jnp.mean((jax.vmap(lambda prompt: predict(model, prompt))(prompts) - targets) ** 2)

    def programs(predict: Callable) -> tuple[Callable, Callable]:
        gradient = jax.value_and_grad(lambda parameters: loss(predict, parameters))

        def step(parameters, _):
            value, slopes = gradient(parameters)
            return jax.tree.map(
                lambda weight, slope: weight - 1e-6 * slope, parameters, slopes
            ), value

        return jax.jit(gradient), jax.jit(
            lambda parameters: jax.lax.scan(step, parameters, None, length=STEPS)
        )

    ways = {
        "mesalens": programs(lambda model, prompt: model(prompt)),
        "textbook": programs(textbook),
    }
    found = [gradient(parameters) for gradient, _ in ways.values()]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max() + 1e-8
        ),
        *found,
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (_, loop) in ways.items():
            started = time.perf_counter()
            jax.block_until_ready(loop(parameters))
            if number:  # the first compiles
                seconds[name].append((time.perf_counter() - started) / STEPS)
    return {name: np.array(times) for name, times in seconds.items()}


def main() -> None:
    """Measures both models and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(", ".join(f"{name}: {value}" for name, value in environment().items()))
    for name, (task, model) in CASES.items():
        seconds = compared(task, model, rounds)
        words = [f"{way} {_spread(1e3 * times)} ms/step" for way, times in seconds.items()]
        ratio = _spread(seconds["textbook"] / seconds["mesalens"])
        print(f"{name}: {', '.join(words)}, ratio {ratio}")


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.1f} [{values.min():.1f}..{values.max():.1f}]"


if __name__ == "__main__":
    main()
