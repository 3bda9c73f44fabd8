"""Part `distractors`: labels that are noise hurt the trained layer and gradient descent alike."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens.analysis import distracted
from mesalens.studies.criterion import Evidence, above, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.studies.von_oswald_2023.shift import MARGIN, draw_learners, relative, shifted_risks

PLACE = "released code, data.create_reg_data with size_distract: labels of random examples become N(0, 1)"

CLAIMS = (
    Claim(
        "distractors-hurt",
        "Every distractor in the context raises the risk of the trained layer and of gradient descent.",
        PLACE,
        "R with k distractors / R with k - 1, minus 1, for k from 1 to n",
        above(0.0),
    ),
    Claim(
        "distractors-alike",
        "With k labels of the context replaced by noise, the trained and the interpolated layer have the risk of gradient descent.",
        PLACE,
        "R / R_GD - 1, both on the same prompts, for k from 0 to n",
        within(MARGIN),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Risks with 0 to n distractors."""
    layers = laboratory.trained()
    counts = np.arange(layers.task.context_length + 1)
    risk = shifted_risks(
        laboratory, layers, distracted(layers.task), counts, place=10, name="distractors"
    )
    more, fewer = risk.isel(distractors=slice(1, None)), risk.isel(distractors=slice(None, -1))
    increase = more / fewer.assign_coords(distractors=more.distractors) - 1
    return Findings(
        evidence={
            "distractors-hurt": Evidence(
                increase.sel(learner=["trained", "gradient descent"]), layers.trained()
            ),
            "distractors-alike": Evidence(relative(risk), layers.trained()),
        },
        figures=[figure(risk.sel(seed=layers.shown()))],
        datasets={"distractors": risk.to_dataset()},
    )


def figure(risk: xr.DataArray) -> Figure:
    """Risk against the number of distractors."""
    drawn, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    draw_learners(axes, risk)
    axes.set(xlabel="distractors among the context's labels", ylabel="risk", ylim=(0, None))
    axes.legend(loc="lower right")
    return Figure(
        "distractors",
        "Risk against the number of context labels that were replaced by noise N(0, 1), for layers trained without any. The trained layer (line, "
        "with a band from the least to the greatest seed) and the interpolated one (dots) lose what gradient descent loses (wide line).",
        drawn,
    )


PART = Part("distractors", "Distractors", CLAIMS, run)
