"""Part `sizes`: the same for other dimensions and context lengths."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.studies.criterion import Evidence, above, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory

PLACE = "Section 3: agreement over a wide range of hyperparameters"

CLAIMS = (
    Claim(
        "risk-at-other-sizes",
        "At other dimensions d and context lengths n too, the trained layer's risk is that of one step of gradient descent.",
        PLACE,
        "R / R_GD - 1, both on the same fresh prompts, for each (d, n)",
        within(0.01),
    ),
    Claim(
        "cosine-at-other-sizes",
        "At other dimensions d and context lengths n too, sensitivities point the same way.",
        PLACE,
        "mean cosine of the two sensitivities, for each (d, n)",
        above(0.99),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains and measures layers at every size of the budget."""
    found: list[xr.Dataset] = []
    theory, remarks = [], []
    for size in laboratory.budget.sizes:
        layers = laboratory.trained(*size)
        found.append(layers.after_training())
        found[-1]["trained"] = layers.trained()
        remarks.append(layers.remark())
        theory.append((layers.theory.at(float(layers.descent.step_size)), layers.theory.null_risk))
    labels = [f"d={dim}, n={length}" for dim, length in laboratory.budget.sizes]
    values = xr.concat(found, dim=xr.DataArray(labels, dims="size", name="size"))
    values["exact_risk"] = "size", [risk for risk, _ in theory]
    values["null_risk"] = "size", [null for _, null in theory]
    return Findings(
        evidence={
            "risk-at-other-sizes": Evidence(values.risk_difference, values.trained),
            "cosine-at-other-sizes": Evidence(values.sensitivity_cosine, values.trained),
        },
        remarks=remarks,
        figures=[figure(values)],
        datasets={"sizes": values},
        learners={
            f"sizes-d{dim}-n{length}": laboratory.trained(dim, length).training.learners
            for dim, length in laboratory.budget.sizes
        },
    )


def figure(values: xr.Dataset) -> Figure:
    """Risk at each size, trained layers against the exact risk of GD."""
    drawn, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    places = np.arange(values.sizes["size"])
    axes.hlines(
        values.exact_risk / values.null_risk,
        places - 0.3,
        places + 0.3,
        color=plots.REFERENCE,
        linewidth=3,
        label="one GD step, exact",
    )
    for number in range(values.sizes["seed"]):
        share = values.risk.isel(seed=number) / values.null_risk
        offset = 0.4 * ((number + 0.5) / values.sizes["seed"] - 0.5)
        axes.plot(
            places + offset,
            share,
            "o",
            color=plots.TRAINED,
            markersize=4,
            label="trained layer" if number == 0 else None,
        )
    axes.axhline(1, color=plots.NEUTRAL, linestyle=":", label="predicting 0")
    axes.set(xticks=places, ylabel="risk / risk of predicting 0", ylim=(0, 1.08))
    axes.set_xticklabels(values["size"].values)
    axes.legend(loc="lower right")
    return Figure(
        "sizes",
        "Risk of trained layers at other dimensions d and context lengths n (one dot a seed, measured on fresh prompts) against the "
        "exact risk of one step of gradient descent with the best step size of that size, both as a share of the risk of predicting 0. A dot near "
        "the dotted line is a layer that had not left the plateau; the claims do not count it.",
        drawn,
    )


PART = Part("sizes", "Other sizes", CLAIMS, run)
