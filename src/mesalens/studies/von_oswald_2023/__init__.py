"""Transformers Learn In-Context by Gradient Descent, von Oswald et al., ICML 2023: its claims about one layer."""

from mesalens.studies.study import Study
from mesalens.studies.von_oswald_2023 import construction, distractors, one_layer, shift, sizes
from mesalens.studies.von_oswald_2023.laboratory import BUDGETS, Laboratory

STUDY = Study(
    name="von-oswald-2023",
    title="Transformers Learn In-Context by Gradient Descent",
    citation="von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov, ICML 2023, arXiv 2212.07677",
    parts=(construction.PART, one_layer.PART, shift.PART, distractors.PART, sizes.PART),
    budgets=BUDGETS,
    laboratory=Laboratory,
)
