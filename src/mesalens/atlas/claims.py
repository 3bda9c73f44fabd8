"""The standard claims of studies: that learners are alike, and that they left a plateau."""

from typing import Any, Literal

import numpy as np

from mesalens.atlas.criterion import Criterion
from mesalens.atlas.experiment import LeftPlateau, Trained
from mesalens.atlas.study import Lab, Part, Study, measurement

Quantity = Literal["risk", "predictions", "cosine", "sensitivities"]

_ALIKE: dict[Quantity, tuple[str, str, str]] = {
    "risk": (
        "risk_difference",
        "The risk of {subject} is {order} that of {reference}.",
        "R / R_ref - 1, both on the same fresh prompts",
    ),
    "predictions": (
        "prediction_difference",
        "The predictions of {subject} approach those of {reference}.",
        "E‖ŷ - ŷ_ref‖ / E‖ŷ_ref‖",
    ),
    "cosine": (
        "cosine",
        "The sensitivities ∂ŷ/∂x_query of {subject} and of {reference} point the same way.",
        "mean cosine of the two sensitivities",
    ),
    "sensitivities": (
        "sensitivity_difference",
        "The sensitivities ∂ŷ/∂x_query of {subject} approach those of {reference} in length too.",
        "E‖J - J_ref‖ / E‖J_ref‖, J = ∂ŷ/∂x_query",
    ),
}


@measurement
def one_value(lab: Lab, compared: Any, value: str) -> Any:
    """{statement}

    Measured: {measured}.
    """
    return compared[value]


@measurement
def gain(lab: Lab, trained: Trained) -> float:
    """Training leaves the plateau: averaged over initialisations, {subject} gain more than half of
    what {reference} gains over predicting 0.

    Measured: (R_0 - R) / (R_0 - R_ref) after the last step, R_0 the risk of predicting 0; this
    claim counts every seed.
    """
    return (trained.experiment.counts or LeftPlateau()).gain(trained)


class Alike:
    """Declares claims about learners beside a reference, by the quantities of `compared`.

    Args:
        part: The part of a study that has the claims.
        compared: A measurement by `compared`, or by `compared_with_each`.
        subject: Words for the learners.
        reference: Words for the reference.
        name: In front of a reference's values, where there are several, as "plus_plus_".
        seeds: Which seeds count, in words, if not all that left the plateau.
        **options: As for `Part.claim`.
    """

    def __init__(
        self,
        part: Part | Study,
        compared: Any,
        subject: str,
        reference: str,
        *,
        name: str = "",
        seeds: str = "",
        **options: Any,
    ):
        self.part, self.compared, self.name, self.seeds = part, compared, name, seeds
        self.words, self.options = {"subject": subject, "reference": reference}, options

    def __call__(
        self,
        name: str,
        quantity: Quantity,
        place: str,
        criterion: Criterion,
        fails: Any = "untrained",
        **options: Any,
    ) -> Any:
        """Declares a claim.

        Args:
            name: Of the claim.
            quantity: What of the two is compared.
            place: Where the paper makes it.
            criterion: What confirms it.
            fails: "untrained", or the same measurement of something else, of which it is false.
            **options: As for `Part.claim`.
        """
        value, statement, measured = _ALIKE[quantity]
        order = "below" if criterion.low == -np.inf else "above" if criterion.high == np.inf else ""
        statement = " ".join(statement.format(**self.words, order=order).split())
        measured = "; ".join(filter(None, (measured, self.seeds)))
        given: Any = {"must_fail_on": fails if fails == "untrained" else {"compared": fails}}
        given |= {**self.options, **options, "statement": statement, "measured": measured}
        declare = self.part.claim(place, criterion, name=name, **given)
        return declare(one_value.given(compared=self.compared, value=self.name + value))


def leaves_plateau(
    part: Part | Study,
    name: str,
    place: str,
    criterion: Criterion,
    trained: Any,
    subject: str,
    *,
    reference: str = "one step of gradient descent",
    **options: Any,
) -> Any:
    """Declares the claim that trainings leave the plateau, which counts every seed.

    Args:
        part: The part of a study that has the claim.
        name: Of the claim.
        place: Where the paper makes it.
        criterion: What confirms it, about the share of the reference's gain.
        trained: The experiment.
        subject: Words for the learners.
        reference: Words for the reference.
        **options: As for `Part.claim`.
    """
    options |= {"every_seed": True, "must_fail_on": "untrained"}
    options |= {"subject": subject, "reference": reference}
    declare = part.claim(place, criterion, name=name, **options)
    return declare(gain.given(trained=trained))
