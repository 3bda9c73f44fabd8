"""The study of von Oswald et al. (2023), its tasks, and how its models are trained.

The released code draws inputs from U(-1/2, 1/2)^d, and so does this study. The numbers agree: the
notebooks have 0.2047 as the loss, half the risk, of one step of gradient descent at d = n = 10,
where the exact value is 0.2062 (four times as much for inputs within 1, which the paper writes).
"""

from typing import Any

from mesalens.atlas import Study
from mesalens.studies.von_oswald_2023 import settings
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform

STUDY = Study(
    "von-oswald-2023",
    title="Transformers Learn In-Context by Gradient Descent",
    citation=(
        "von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov, "
        "ICML 2023, arXiv 2212.07677"
    ),
    note=(
        "The paper's loss is half of the risk. Inputs are drawn from U(−1/2, 1/2)^d, as in the "
        "released code; the paper writes U(−1, 1)^d. The code takes gradients of half of the risk, "
        "which matters for clipping and for Adam's epsilon: in the budget `paper` both are twice "
        "as large, so that updates are equal. The code divides shifted inputs by the Frobenius "
        "norm of their context; here they are only scaled. In its unshared layers with layer norm, "
        "the first layer has none; here every layer has one. Outside the budget `paper` the models "
        "of sine waves start from other weights: from the published ones, many end at twice the "
        "risk."
    ),
    settings=settings.SETTINGS,
    quick=settings.QUICK,
    full=settings.FULL,
    paper=settings.PAPER,
    small=settings.SMALL,
)


def regression(dim: int, context_length: int, outputs: int = 1) -> RegressionTask:
    """The task of the study: x ~ U(-1/2, 1/2)^d and W ~ N(0, I), without noise."""
    laws = Uniform(dim, 0.5), LinearFunctions(dim, outputs)
    return RegressionTask(*laws, context_length=context_length)


def training(s: Any, **changes: Any) -> dict[str, Any]:
    """Arguments of `Experiment` for how a model is trained, with other values of some settings."""
    s = s | changes
    adam = {name: s[name] for name in ("learning_rate", "schedule", "clip", "epsilon")}
    return {
        "optimiser": {"kind": "adam", **adam},
        "steps": s["steps"],
        "batch_size": s["batch_size"],
        "microbatches": s["microbatches"],
        "every": max(s["steps"] // s["measurements"], 1),
    }
