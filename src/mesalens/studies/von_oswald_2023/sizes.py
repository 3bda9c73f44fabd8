"""Part `sizes`: the same for other dimensions and context lengths."""

from mesalens.atlas import above, compared, figures, within
from mesalens.studies.von_oswald_2023.one_layer import ascent, best_step, layer, twice_as_long
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.theory import one_step_risk

part = STUDY.part("sizes", "Other sizes")
PLACE = "Section 3: agreement over a wide range of hyperparameters"


@part.experiment
def other_sizes(s):
    """One layer at every other size."""
    return {f"d={dim}, n={length}": layer(s, dim, length) for dim, length in s.sizes}


beside_best = compared.given(trained=other_sizes, reference=best_step, dimension="size")
TOO_LONG = {"compared": beside_best.given(reference=twice_as_long)}
UPWARD = {"compared": beside_best.given(reference=ascent)}


@part.claim(PLACE, within(0.01), headline=True, must_fail_on=TOO_LONG)
def risk_at_other_sizes(lab, compared=beside_best):
    """At other dimensions d and context lengths n too, the trained layer's risk is that of one step
    of gradient descent.

    Measured: R / R_GD - 1, both on the same fresh prompts, for each (d, n).
    """
    return compared.risk_difference


@part.claim(PLACE, above(0.99), headline=True, must_fail_on=UPWARD)
def cosine_at_other_sizes(lab, compared=beside_best):
    """At other dimensions d and context lengths n too, sensitivities point in the same direction.

    Measured: mean cosine of the two sensitivities, for each (d, n).
    """
    return compared.cosine


@part.figure
def sizes(lab, trained=other_sizes, compared=beside_best):
    """Risk of trained layers at other dimensions d and context lengths n (one dot per seed,
    measured on fresh prompts) against the exact risk of one step of gradient descent with the best
    step size of that size, both as a share of the risk of predicting 0.
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
