"""Part `construction`: with the weights of Proposition 1, attention is gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.learners import GradientDescent
from mesalens.prompt import Prompt
from mesalens.studies.criterion import Evidence, every_seed_below
from mesalens.studies.study import Claim, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform

CASES = [
    (layers, outputs, start, form)
    for layers in (1, 2, 5)
    for outputs, start in ((1, "zero"), (3, "random"))
    for form in ("fast", "token by token")
]


def claim(dtype: str, tolerance: float) -> Claim:
    """The claim for one precision; the tolerance leaves some hundred roundings."""
    return Claim(
        f"construction-{dtype}",
        "With the constructed weights, L layers of linear self-attention predict what L steps of gradient descent predict, for "
        f"scalar and vector outputs and from any W_0 ({dtype}).",
        "Proposition 1 and Appendix A.1",
        "largest ‖ŷ - ŷ_GD‖ over 256 prompts, relative to the root mean square of ‖ŷ_GD‖; "
        "L in {1, 2, 5}, m = 1 with W_0 = 0 and m = 3 with a random W_0, both forms of the forward pass",
        every_seed_below(tolerance),
    )


CLAIMS = (claim("float32", 1e-5), claim("float64", 1e-12))


DIM = CONTEXT_LENGTH = 10
TASKS = {
    outputs: RegressionTask(
        Uniform(DIM, 0.5), LinearFunctions(DIM, outputs), context_length=CONTEXT_LENGTH
    )
    for _, outputs, _, _ in CASES
}


def run(laboratory: Laboratory) -> Findings:
    """Compares the constructed transformer with gradient descent in both precisions, on the same prompts."""
    drawn = [draw(laboratory.key(1, seed)) for seed in range(laboratory.seeds)]
    errors = {"float32": relative_errors(laboratory, drawn, "float32")}
    with jax.enable_x64(True):
        errors["float64"] = relative_errors(laboratory, drawn, "float64")
    return Findings(
        evidence={f"construction-{dtype}": Evidence(values) for dtype, values in errors.items()},
        datasets={"construction": xr.Dataset(errors)},
    )


@jax.jit
def draw(key: Key[Array, ""]) -> dict[int, tuple[Prompt, Float[Array, "m d"]]]:
    """256 prompts and a W_0 for each number of outputs."""
    prompt_key, start_key = jax.random.split(key)
    return {
        outputs: (task.sample(prompt_key, (256,))[0], jax.random.normal(start_key, (outputs, DIM)))
        for outputs, task in TASKS.items()
    }


def relative_errors(laboratory: Laboratory, drawn: list, dtype: str) -> xr.DataArray:
    """Largest relative error of the construction, for every seed and case."""

    @jax.jit
    def of_seed(drawn: dict[int, tuple[Prompt, Float[Array, "m d"]]]) -> Float[Array, " cases"]:
        errors = []
        for layers, outputs, start, form in CASES:
            prompts, weights = drawn[outputs]
            descent = GradientDescent(
                jnp.asarray(laboratory.step_size(TASKS[outputs]), dtype),
                steps=layers,
                initial_weights=weights if start == "random" else None,
            )
            transformer = laboratory.construct(
                descent, dim=DIM, outputs=outputs, context_length=CONTEXT_LENGTH
            )
            predict = transformer if form == "fast" else transformer.token_by_token
            predicted, expected = jax.vmap(predict)(prompts), jax.vmap(descent)(prompts)
            assert predicted.dtype == dtype, (
                "the precision that the claim is about got lost on the way"
            )
            difference = jnp.linalg.norm(predicted - expected, axis=-1)
            errors.append(difference.max() / jnp.sqrt(jnp.mean(jnp.sum(expected**2, axis=-1))))
        return jnp.stack(errors)

    errors = [
        of_seed(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), of_one)) for of_one in drawn
    ]
    cases = [f"L={layers}, m={m}, W_0 {start}, {form}" for layers, m, start, form in CASES]
    return xr.DataArray(
        np.stack(errors), dims=("seed", "case"), coords={"case": cases}, name="relative_error"
    )


PART = Part("construction", "The construction", CLAIMS, run)
