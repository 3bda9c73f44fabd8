"""Part `depths`: the claims of `deep` at depths and sizes that the paper does not show."""

import numpy as np
import xarray as xr

from mesalens.studies.criterion import Evidence, below, within
from mesalens.studies.study import Claim, Findings, Part
from mesalens.studies.von_oswald_2023 import deep_figures
from mesalens.studies.von_oswald_2023.deep import MARGIN, SECTION
from mesalens.studies.von_oswald_2023.deep_models import DeepModels
from mesalens.studies.von_oswald_2023.laboratory import Laboratory

CLAIMS = (
    Claim(
        "depths-beat-descent",
        "At other depths and sizes too, layers have a lower risk than as many steps of gradient descent with their best step sizes.",
        f"{SECTION}; not shown in the paper",
        "R / R_GD - 1, both on the same fresh prompts",
        below(0.0),
    ),
    Claim(
        "depths-match-plus-plus",
        "At other depths and sizes too, layers have the risk of as many steps of trained GD++.",
        f"{SECTION}; not shown in the paper",
        "R / R_GD++ - 1, both on the same fresh prompts",
        within(MARGIN),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains the other depths of the budget."""
    named = {
        name: laboratory.deep(name)
        for name in laboratory.budget.deep
        if name not in ("two-layers", "five-layers")
    }
    models = list(named.values())
    return Findings(
        evidence={
            "depths-beat-descent": _over_models(models, "descent_risk_difference"),
            "depths-match-plus-plus": _over_models(models, "plus_plus_risk_difference"),
        },
        figures=[deep_figures.risks("depths-risk", models)],
        datasets={name: of_depth.training.metrics for name, of_depth in named.items()},
        learners={name: of_depth.training.learners for name, of_depth in named.items()},
        remarks=[of_depth.remark() for of_depth in models],
    )


def _over_models(models: list[DeepModels], measure: str) -> Evidence:
    """One evidence from those of models that may differ in seeds: those missing do not count."""
    names = xr.DataArray([of_depth.name for of_depth in models], dims="model", name="model")
    values = [of_depth.after_training()[measure] for of_depth in models]
    counted = [of_depth.trained() for of_depth in models]
    return Evidence(
        xr.concat(values, names, join="outer", fill_value=np.nan),
        xr.concat(counted, names, join="outer", fill_value=False).astype(bool),
    )


PART = Part("depths", "Other depths and sizes", CLAIMS, run)
