"""Standard claims of studies: that learners are alike, and that they leave a plateau."""

from typing import Any, Literal

import numpy as np

from mesalens.atlas.criterion import Criterion
from mesalens.atlas.experiment import LeftPlateau, Trained
from mesalens.atlas.study import Lab, Part, Study, measurement, require_criterion

Quantity = Literal["risk", "predictions", "cosine", "sensitivities"]

_ALIKE: dict[Quantity, tuple[str, str, str]] = {
    "risk": (
        "relative_risk_difference",
        "The risk of {subject} is {order} that of {reference}.",
        "R / R_ref - 1, both on the same fresh prompts",
    ),
    "predictions": (
        "relative_prediction_difference",
        "The predictions of {subject} approach those of {reference}.",
        "E‖ŷ - ŷ_ref‖ / E‖ŷ_ref‖",
    ),
    "cosine": (
        "cosine",
        "The sensitivities ∂ŷ/∂x_query of {subject} and of {reference} point the same way.",
        "mean cosine of the two sensitivities",
    ),
    "sensitivities": (
        "relative_sensitivity_difference",
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

    Measured: (R_0 - R) / (R_0 - R_ref) after the last step, where R_0 is the risk of predicting 0;
    every seed counts.
    """
    return (trained.experiment.counts or LeftPlateau()).gain(trained)


class Alike:
    """Declares claims that learners and a reference are alike.

    Args:
        part: The part or study that has the claims.
        compared: A measurement, made by `compared` or `compared_with_each`.
        subject: The learners in words.
        reference: The reference in words.
        name: The prefix of the reference's values, if there are several references.
        seeds: Which seeds count, in words; by default nothing is said.
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
            name: The name of the claim.
            quantity: What is compared: "risk", "predictions", "cosine" or "sensitivities".
            place: Where the paper makes the claim.
            criterion: What confirms it.
            fails: "untrained", or the same measurement of other learners, of which it is false.
            **options: As for `Part.claim`.
        """
        require_criterion(criterion, one_value.function)
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
    """Declares the claim that training leaves the plateau; every seed counts.

    Args:
        part: The part or study that has the claim.
        name: The name of the claim.
        place: Where the paper makes the claim.
        criterion: What confirms it, as a share of what the reference gains over predicting 0.
        trained: The experiment.
        subject: The learners in words.
        reference: The reference in words.
        **options: As for `Part.claim`.

    Returns:
        The claim.
    """
    options |= {"count_all_seeds": True, "must_fail_on": "untrained"}
    options |= {"subject": subject, "reference": reference}
    declare = part.claim(place, criterion, name=name, **options)
    return declare(gain.given(trained=trained))
