"""Part `depths`: the claims of `deep` at depths and sizes that the paper does not show."""

from matplotlib.figure import Figure

from mesalens.atlas import below, figures, over, within
from mesalens.studies.von_oswald_2023.deep import MARGIN, SECTION, beside_both, draw_risk
from mesalens.studies.von_oswald_2023.deep_models import name_of, trained_plus_plus, transformer
from mesalens.studies.von_oswald_2023.study import STUDY

part = STUDY.part("depths", "Other depths and sizes", looks="depth_seeds")
PLACE = f"{SECTION}; not shown in the paper"


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


UNTRAINED = {"compared": compared.given(trained=other_depths.given(trained=False))}


@part.claim(PLACE, below(0.0), must_fail_on=UNTRAINED)
def depths_beat_descent(lab, compared=compared):
    """At other depths and sizes too, layers have a lower risk than as many steps of gradient
    descent with their best step sizes.

    Measured: R / R_GD - 1, both on the same fresh prompts.
    """
    return compared.descent_risk_difference


@part.claim(PLACE, within(MARGIN), must_fail_on=UNTRAINED)
def depths_match_plus_plus(lab, compared=compared):
    """At other depths and sizes too, layers have the risk of as many steps of trained GD++.

    Measured: R / R_GD++ - 1, both on the same fresh prompts.
    """
    return compared.plus_plus_risk_difference


@part.figure
def depths_risk(lab, trained=other_depths, risks=compared):
    """Risk over training of transformers of other depths and sizes, beside as many steps of plain
    gradient descent with the best step sizes and of GD++, which is trained by the same call (mean
    over seeds).
    """
    rows = -(-len(trained) // 2)
    figure = Figure((figures.WIDE, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (name, runs) in zip(panels, trained.items(), strict=False):
        draw_risk(axes, name, runs, risks.sel(model=name))
    for axes in panels[len(trained) :]:
        axes.set_axis_off()
    return figure
