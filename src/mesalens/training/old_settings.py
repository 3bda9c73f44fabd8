"""Settings of run folders of mesalens 0.1, which were one flat list."""

from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from mesalens.checks import InputError
from mesalens.kinds import nested
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.names import SHORT
from mesalens.storage import load_arrays

REQUIRED = {"dim", "context_length", "covariates", "functions", "layers", "steps"}
PARTS = {
    "layer_norm": False,
    "mlp_widening": None,
    "biases": False,
    "embedding_size": None,
    "input_mlp_widening": None,
    "readout": False,
    "attention": "linear",
    "tokens": "joint",
    "visibility": "context",
    "positions": None,
}
"""If one of these had another value, the model was a `Transformer`, not a `LinearTransformer`."""


def _below(place: str, names: str) -> dict[str, str]:
    return {name: f"{place}.{name}" for name in names.split()}


PATHS = {
    **{name: name for name in ("steps", "batch_size", "seeds", "seed", "every", "generator")},
    **_below("task", "dim context_length outputs distractors condensed"),
    "covariates": "task.covariates.kind",
    "covariate_covariance": "task.covariates.covariance",
    **_below("task.covariates", "scale degrees_of_freedom"),
    "functions": "task.functions.kind",
    "function_scale": "task.functions.scale",
    "weight_covariance": "task.functions.covariance",
    "weight_mean": "task.functions.mean",
    **_below("task.functions", "hidden readout_mean degree frequency phase"),
    "noise_variance": "task.noise.variance",
    **_below("model", "layers heads looped init_scale initial_weights activation_clip"),
    **_below("model", " ".join(PARTS)),
    "keys": "model.visibility",
    "objective": "objective",
    **_below("optimiser", "learning_rate b2 clip schedule warmup"),
    "stop": "stop.kind",
    "tolerance": "stop.tolerance",
}
"""The present path of each old setting."""


OldArrays = namedtuple("OldArrays", "W_Q W_K W_V P initial_weights")
"""The arrays of a linear transformer, by their names in a file."""


def is_old(content: Mapping[str, Any]) -> bool:
    """Whether settings were written by mesalens 0.1."""
    return all(content.get(name) is not None for name in REQUIRED)


def upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of mesalens 0.1 as nested ones; raises `ValueError` if they are unreadable."""
    kinds = {"task": "regression", "task.noise": "gaussian", "optimiser": "adam", "stop": "never"}
    given = {path: old[name] for name, path in PATHS.items() if old.get(name) is not None}
    try:
        content = nested({f"{path}.kind": kind for path, kind in kinds.items()} | given)
        activation, _, network = old["functions"].rpartition("-")
        if network == "network":
            content["task"]["functions"] |= {"kind": "network", "activation": activation}
        if content["stop"]["kind"] == "never":
            del content["stop"]
        vary = [_varied(words) for words in old.get("vary", ())]
        return content | {"model": _model(content["model"]), "vary": vary}
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"settings of mesalens 0.1 cannot be read ({error}).") from None


def _varied(words: str) -> str:
    """What is varied, by its present name: the short one, if there is one."""
    name, _, values = words.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    return f"{name if name in SHORT else PATHS.get(name, name)}={values}"


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    if all(model.get(name, default) == default for name, default in PARTS.items()):
        others = {name: value for name, value in model.items() if name not in PARTS}
        return {"kind": "linear-transformer", **others}
    model = {"kind": "transformer", **PARTS, **model}
    model.pop("activation_clip", None)
    model["tokens"] = {"kind": model["tokens"]}
    if (start := model.pop("initial_weights", None)) is not None:
        model["tokens"]["initial_weights"] = start
    if model["attention"] == "softmax-first":
        model |= {"attention": "linear", "first_attention": "softmax"}
    if model["positions"] is not None:
        model["positions"] = {"kind": "sinusoidal", "entries": model["positions"]}
    return model


def load_old_weights(template: Learner, file: Path) -> Learner:
    """`load_arrays`, for a file in which the factors of a linear transformer have no prefix."""
    if not isinstance(template, LinearTransformer):
        return load_arrays(template, file)

    def arrays(model: Any) -> OldArrays:
        weights = model.weights
        return OldArrays(weights.W_Q, weights.W_K, weights.W_V, weights.P, model.initial_weights)

    loaded = load_arrays(arrays(template), file)
    return eqx.tree_at(arrays, template, loaded, is_leaf=lambda leaf: leaf is None)
