"""Part `sizes`: one trained layer, for other dimensions and context lengths."""

from mesalens import atlas
from mesalens.atlas import above, compared, figures, within
from mesalens.studies.von_oswald_2023.one_layer import (
    BEST_STEP,
    ascent,
    best_step,
    layer,
    twice_as_long,
)
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.theory import one_step_risk

part = STUDY.part("sizes", "Other sizes")
PLACE = "Section 3: agreement over a wide range of hyperparameters"


@part.experiment
def other_sizes(s):
    """One layer at every other size."""
    return {f"d={dim}, n={length}": layer(s, dim, length) for dim, length in s.sizes}


beside_best = compared.given(trained=other_sizes, reference=best_step, dimension="size")
alike = atlas.Alike(
    part,
    beside_best,
    "layers at other dimensions d and context lengths n",
    BEST_STEP,
    headline=True,
)
too_long = beside_best.given(reference=twice_as_long)
alike("risk-at-other-sizes", "risk", PLACE, within(0.01), too_long)
upward = beside_best.given(reference=ascent)
alike("cosine-at-other-sizes", "cosine", PLACE, above(0.99), upward)


@part.figure
def sizes(lab, trained=other_sizes, compared=beside_best):
    """Risk of trained layers at other dimensions d and context lengths n (one dot per seed,
    measured on fresh prompts) and the exact risk of one step of gradient descent with the best step
    size for that size, both relative to the risk of predicting 0.
    """
    theory = {label: one_step_risk(runs[0].task) for label, runs in trained.items()}
    null = compared.risk[0].copy(data=[exact.null_risk for exact in theory.values()])
    share = (compared.risk / null).assign_coords(counted=compared.counted.astype(bool))
    best = [exact.best_risk / exact.null_risk for exact in theory.values()]
    lines = {
        "one step of gradient descent, exact": (list(theory), best),
        "predicting 0": (list(theory), [1.0] * len(theory)),
    }
    ylabel = "risk / risk of predicting 0"
    return figures.risk_against("size", lines, {"trained layer": share}, ylabel=ylabel)
