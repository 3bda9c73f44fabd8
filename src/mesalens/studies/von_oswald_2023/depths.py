"""Part `depths`: the claims of `deep` at depths and sizes that the paper does not show."""

from mesalens.atlas import over
from mesalens.studies.von_oswald_2023.deep import SECTION, beside_both, declare_risks, draw_risks
from mesalens.studies.von_oswald_2023.deep_models import name_of, trained_plus_plus, transformer
from mesalens.studies.von_oswald_2023.study import STUDY

part = STUDY.part("depths", "Other depths and sizes", looks="depth_seeds")


@part.experiment
def other_depths(s, trained=True):
    """Transformers of other depths and sizes."""
    return {name_of(kind): transformer(s, kind, trained) for kind in s.depths}


@part.experiment
def other_plus_plus(s):
    """GD++ of these depths and sizes."""
    return {name_of(kind): trained_plus_plus(s, kind) for kind in s.depths}


@part.measurement
def compared(lab, trained=other_depths, plus_plus=other_plus_plus):
    """Each transformer beside the GD++ of its depth, size and seed."""
    pairs = {run.name: plus_plus[label] for label, run in trained.items()}
    return over(trained, lambda run: beside_both(lab, run, pairs[run.name]), "model")


PLACE = f"{SECTION}; not shown in the paper"
declare_risks(part, PLACE, "depths", "layers of other depths and sizes", compared)


@part.figure
def depths_risk(lab, trained=other_depths, risks=compared):
    """Risk over training of transformers of other depths and sizes, beside as many steps of plain
    gradient descent with the best step sizes and of GD++, which is trained by the same call (mean
    over seeds).
    """
    return draw_risks({name: (runs, risks.sel(model=name)) for name, runs in trained.items()})
