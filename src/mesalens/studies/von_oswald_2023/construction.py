"""Part `construction`: with the weights of Proposition 1, attention is gradient descent."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mesalens.atlas import compiled_once, every_seed_below, settings_of
from mesalens.learners import GradientDescent
from mesalens.models import LinearTransformer
from mesalens.studies.von_oswald_2023.study import STUDY, regression
from mesalens.theory import best_step_size, gradient_descent_transformer

part = STUDY.part("construction", "The construction")

Construct = Callable[..., LinearTransformer]
"""Makes a transformer of gradient descent, as `gradient_descent_transformer` does."""

STARTS = {1: "zero", 3: "random"}
"""What W_0 is for each number of outputs m."""
FORMS = ("fast", "token by token")
CASES = [(layers, outputs, form) for layers in (1, 2, 5) for outputs in STARTS for form in FORMS]


def with_sign_changed(matrix: str, descent: GradientDescent, **sizes: int) -> LinearTransformer:
    """The construction with the sign of W_K, W_Q, W_V or P changed: a wrong one."""
    transformer = gradient_descent_transformer(descent, **sizes)
    where: Any = lambda t: getattr(t.weights, matrix)  # noqa: E731
    return eqx.tree_at(where, transformer, replace_fn=lambda weights: -weights)


wrong = functools.partial(with_sign_changed, "W_Q")


def declare(dtype: str, tolerance: float) -> None:
    """The claim for one precision; the tolerance allows for some hundred roundings."""

    @part.claim(
        "Proposition 1 and Appendix A.1",
        every_seed_below(tolerance),
        headline=True,
        must_fail_on={"construct": wrong},
        name=f"construction-{dtype}",
        dtype=dtype,
    )
    def construction(lab, construct=gradient_descent_transformer, dtype=dtype):
        """With the constructed weights, L layers of linear self-attention predict what L steps of
        gradient descent predict, for scalar and vector outputs and from any W_0 ({dtype}).

        Measured: the largest ‖ŷ - ŷ_GD‖ over 256 prompts, relative to the root mean square of
        ‖ŷ_GD‖, for L = 1, 2, 5, for m = 1 with W_0 = 0 and m = 3 with a random W_0, and for both
        forms of the forward pass.
        """
        s = lab.settings
        tasks = {m: regression(s.dim, s.context_length, m) for m in STARTS}
        drawn = {m: draw(task, lab.key(f"m={m}")) for m, task in tasks.items()}
        with jax.enable_x64(dtype == "float64"):
            drawn = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), drawn)
            errors = np.asarray(relative_errors(tasks, drawn, construct, dtype))
        cases = [f"L={layers}, m={m}, W_0 {STARTS[m]}, {form}" for layers, m, form in CASES]
        return settings_of(dict(zip(cases, errors, strict=True)).get, cases, "case")


@compiled_once
def draw(task, key):
    """256 prompts, and a random W_0."""
    prompt_key, start_key = jax.random.split(key)
    start = jax.random.normal(start_key, (task.outputs, task.dim))
    return task.sample(prompt_key, (256,))[0], start


@compiled_once
def relative_errors(tasks, drawn, construct, dtype):
    """The largest relative error of the construction, for every case."""
    errors = []
    for layers, outputs, form in CASES:
        prompts, start = drawn[outputs]
        rate = jnp.asarray(best_step_size(tasks[outputs]), dtype)
        start = start if STARTS[outputs] == "random" else None
        descent = GradientDescent(rate, steps=layers, initial_weights=start)
        transformer = construct(descent, **tasks[outputs].sizes)
        predict = transformer if form == "fast" else transformer.token_by_token
        predicted, expected = jax.vmap(predict)(prompts), jax.vmap(descent)(prompts)
        assert predicted.dtype == dtype, "the precision that the claim is about was lost"
        difference = jnp.linalg.norm(predicted - expected, axis=-1)
        errors.append(difference.max() / jnp.sqrt(jnp.mean(jnp.sum(expected**2, axis=-1))))
    return jnp.stack(errors)


declare("float32", 1e-5)
declare("float64", 1e-12)
