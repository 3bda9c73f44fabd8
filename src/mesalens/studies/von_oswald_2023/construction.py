"""Part `construction`: with the weights of Proposition 1, attention is gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from mesalens.learners import GradientDescent
from mesalens.prompt import Prompt
from mesalens.studies.criterion import Evidence, every_seed_below
from mesalens.studies.study import Claim, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform

CASES = [
    (layers, outputs, start, form)
    for layers in (1, 2, 5)
    for outputs in (1, 3)
    for start in ("zero", "random")
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
        "L in {1, 2, 5}, m in {1, 3}, W_0 zero or random, both forms of the forward pass",
        every_seed_below(tolerance),
    )


CLAIMS = (claim("float32", 1e-5), claim("float64", 1e-12))


def relative_errors(laboratory: Laboratory, dtype: str) -> xr.DataArray:
    """Largest relative error of the construction, for every seed and case."""
    dim = context_length = 10

    tasks = {
        m: RegressionTask(Uniform(dim, 0.5), LinearFunctions(dim, m), context_length=context_length)
        for m in sorted({outputs for _, outputs, _, _ in CASES})
    }

    @jax.jit
    def of_seed(prompts: dict[int, Prompt], starts: dict[int, Float[Array, "m d"]]) -> Float[Array, " cases"]:
        errors = []
        for layers, outputs, start, form in CASES:
            descent = GradientDescent(
                jnp.asarray(laboratory.step_size(tasks[outputs]), dtype),
                steps=layers,
                initial_weights=starts[outputs] if start == "random" else None,
            )
            transformer = laboratory.construct(descent, dim=dim, outputs=outputs, context_length=context_length)
            predict = transformer if form == "fast" else transformer.token_by_token
            predicted, expected = jax.vmap(predict)(prompts[outputs]), jax.vmap(descent)(prompts[outputs])
            assert predicted.dtype == dtype, "the precision that the claim is about got lost on the way"
            difference = jnp.linalg.norm(predicted - expected, axis=-1)
            errors.append(difference.max() / jnp.sqrt(jnp.mean(jnp.sum(expected**2, axis=-1))))
        return jnp.stack(errors)

    errors = []
    for seed in range(laboratory.seeds):
        prompt_key, start_key = jax.random.split(laboratory.key(1, seed))
        sampled = {m: task.sample(prompt_key, (256,))[0] for m, task in tasks.items()}
        prompts = jax.tree.map(lambda leaf: leaf.astype(dtype), sampled)
        starts = {m: jax.random.normal(start_key, (m, dim)).astype(dtype) for m in tasks}
        errors.append(of_seed(prompts, starts))
    cases = [f"L={layers}, m={m}, W_0 {start}, {form}" for layers, m, start, form in CASES]
    return xr.DataArray(np.stack(errors), dims=("seed", "case"), coords={"case": cases}, name="relative_error")


def run(laboratory: Laboratory) -> Findings:
    """Compares the constructed transformer with gradient descent in both precisions."""
    single = relative_errors(laboratory, "float32")
    with jax.enable_x64(True):
        double = relative_errors(laboratory, "float64")
    return Findings(
        evidence={"construction-float32": Evidence(single), "construction-float64": Evidence(double)},
        datasets={"construction": xr.Dataset({"float32": single, "float64": double})},
    )


PART = Part("construction", "The construction", CLAIMS, run)
