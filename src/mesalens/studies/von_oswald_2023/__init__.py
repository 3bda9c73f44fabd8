"""Transformers Learn In-Context by Gradient Descent, von Oswald et al., ICML 2023: its claims.

The paper writes its inputs as U(-1, 1)^d; the released code draws them from U(-1/2, 1/2)^d, and so does this study. The numbers agree with
the code: its notebooks carry 0.2047 as the loss, half the risk, of one step of gradient descent at d = n = 10, and the exact
value is 0.2062 for inputs within 1/2, four times as much for inputs within 1. The paper finds the step size by a line search, this
study from moments.
"""

from mesalens.studies.study import Study
from mesalens.studies.von_oswald_2023 import (
    classification,
    construction,
    copying,
    deep,
    depths,
    distractors,
    nonlinear,
    one_layer,
    shift,
    sizes,
    softmax,
)
from mesalens.studies.von_oswald_2023.laboratory import BUDGETS, Laboratory

STUDY = Study(
    name="von-oswald-2023",
    title="Transformers Learn In-Context by Gradient Descent",
    citation="von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov, ICML 2023, arXiv 2212.07677",
    parts=(
        construction.PART,
        one_layer.PART,
        shift.PART,
        distractors.PART,
        sizes.PART,
        deep.PART,
        depths.PART,
        softmax.PART,
        nonlinear.SINE,
        nonlinear.TEACHERS,
        classification.PART,
        copying.PART,
    ),
    budgets=BUDGETS,
    laboratory=Laboratory,
    note="The paper's loss is half of it.",
)
