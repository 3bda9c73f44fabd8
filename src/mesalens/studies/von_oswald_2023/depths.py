"""Part `depths`: the claims of `deep` at depths and sizes that the paper does not show."""

from mesalens.studies.von_oswald_2023 import deep_models as models
from mesalens.studies.von_oswald_2023.deep import SECTION, beside_both, declare_risks, draw_risks
from mesalens.studies.von_oswald_2023.study import STUDY

part = STUDY.part("depths", "Other depths and sizes", looks="depth_seeds")


@part.experiment
def other_depths(s):
    """Transformers of other depths and sizes."""
    return {models.name_of(kind): models.transformer(s, kind) for kind in s.depths}


@part.experiment
def other_plus_plus(s):
    """GD++ of these depths and sizes."""
    return {models.name_of(kind): models.plus_plus(s, kind) for kind in s.depths}


both = beside_both(other_depths, other_plus_plus, dimension="model")
PLACE = f"{SECTION}; not shown in the paper"
declare_risks(part, PLACE, "depths", "layers of other depths and sizes", both)


@part.figure
def depths_risk(lab, trained=other_depths, risks=both):
    """Risk during training of transformers of other depths and sizes, and of as many steps of plain
    gradient descent with the best step sizes and of trained GD++ (mean over seeds).
    """
    return draw_risks({name: (runs, risks.sel(model=name)) for name, runs in trained.items()})
