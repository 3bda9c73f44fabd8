"""Settings of run folders that mesalens 0.1 wrote, which were one flat list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from mesalens.checks import InputError
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.storage import load_arrays

REQUIRED = {"dim", "context_length", "covariates", "functions", "layers", "steps"}
TOP = ("steps", "batch_size", "seeds", "seed", "every", "generator")
COVARIATES = {"covariance": "covariate_covariance", "degrees_of_freedom": "degrees_of_freedom"}
FUNCTIONS = {
    "covariance": "weight_covariance",
    "mean": "weight_mean",
    **{name: name for name in ("hidden", "readout_mean", "degree", "frequency", "phase")},
}
PARTS = {
    "layer_norm": False,
    "mlp_widening": None,
    "biases": False,
    "embedding_size": None,
    "input_mlp_widening": None,
    "readout": False,
    "attention": "linear",
    "tokens": "joint",
    "keys": "context",
    "positions": None,
}
"""With any of these at another value the model was a `Transformer`, not a `LinearTransformer`."""

PATHS = {
    **{old: f"task.covariates.{name}" for name, old in {**COVARIATES, "scale": "scale"}.items()},
    **{old: f"task.functions.{name}" for name, old in FUNCTIONS.items()},
    "function_scale": "task.functions.scale",
    "distractors": "task.distractors",
    **{name: f"optimiser.{name}" for name in ("b2", "clip", "schedule", "warmup")},
    **{name: f"model.{name}" for name in PARTS},
    "keys": "model.visibility",
    "activation_clip": "model.activation_clip",
}
"""Where settings with other names than today's short ones are now."""


def is_old(content: Mapping[str, Any]) -> bool:
    """Whether settings are of mesalens 0.1."""
    return content.keys() >= REQUIRED


def upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of mesalens 0.1 as nested ones; raises `ValueError` if they are not readable."""
    try:
        return {
            **{name: old[name] for name in TOP if name in old},
            "task": _task(old),
            "model": _model(old),
            "objective": old.get("objective", "sampled"),
            "optimiser": _given(
                old, "adam", dict.fromkeys(("learning_rate", "b2", "clip", "schedule", "warmup"))
            ),
            "stop": _stop(old),
            "vary": _axes(old.get("vary", ())),
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"settings of mesalens 0.1 cannot be read ({error}).") from None


def _given(old: Mapping[str, Any], kind: str, names: Mapping[str, str | None]) -> dict[str, Any]:
    """Those parameters of a kind that were set, by their names there."""
    values = {name: old.get(before or name) for name, before in names.items()}
    return {"kind": kind} | {name: value for name, value in values.items() if value is not None}


def _task(old: Mapping[str, Any]) -> dict[str, Any]:
    functions = str(old["functions"])
    activation, _, network = functions.rpartition("-")
    kind = "network" if network == "network" else functions
    extra = {"activation": activation} if kind == "network" else {}
    sizes = ("dim", "context_length", "outputs", "distractors", "condensed")
    return {
        "kind": "regression",
        **{name: old[name] for name in sizes if name in old},
        "covariates": _given(old, str(old["covariates"]), {"scale": "scale", **COVARIATES}),
        "functions": _given(old, kind, {"scale": "function_scale", **FUNCTIONS}) | extra,
        "noise": {"kind": "gaussian", "variance": old.get("noise_variance", 0.0)},
    }


def _model(old: Mapping[str, Any]) -> dict[str, Any]:
    shared = dict.fromkeys(("layers", "heads", "looped", "init_scale"))
    start = old.get("initial_weights")
    if all(old.get(name, default) == default for name, default in PARTS.items()):
        names = {**shared, "initial_weights": None, "activation_clip": None}
        return _given(old, "linear-transformer", names)
    names = dict.fromkeys([*shared, *list(PARTS)[:6]])
    attention = old.get("attention", "linear")
    kinds = {"attention": attention}
    if attention == "softmax-first":
        kinds = {"attention": "linear", "first_attention": "softmax"}
    positions = old.get("positions")
    tokens = {"kind": old.get("tokens", "joint")}
    return {
        **_given(old, "transformer", names),
        **kinds,
        "tokens": tokens if start is None else {**tokens, "initial_weights": start},
        "visibility": old.get("keys", "context"),
        "positions": None if positions is None else {"kind": "sinusoidal", "entries": positions},
    }


def _stop(old: Mapping[str, Any]) -> dict[str, Any]:
    kind = old.get("stop", "never")
    return {"kind": kind} if kind == "never" else _given(old, kind, {"tolerance": None})


def _axes(vary: Any) -> dict[Any, list[Any]]:
    pairs = [words.partition("=") for words in vary]
    names = [name.strip().lstrip("-").replace("-", "_") for name, _, _ in pairs]
    values = [[value.strip() for value in words.split(",")] for _, _, words in pairs]
    return {PATHS.get(n, n): v for n, v in zip(names, values, strict=True)}


def load_old_weights(template: Learner, file: Path) -> Learner:
    """`load_arrays`, for a file in which the factors of a linear transformer have no prefix."""
    if not isinstance(template, LinearTransformer):
        return load_arrays(template, file)

    def factors(model: Any) -> dict[str, Any]:
        return {name: getattr(model.weights, name) for name in ("W_Q", "W_K", "W_V", "P")}

    loaded = load_arrays(factors(template) | {"initial_weights": template.initial_weights}, file)
    return eqx.tree_at(
        lambda model: [model.initial_weights, *factors(model).values()],
        template,
        [loaded["initial_weights"], *(loaded[name] for name in factors(template))],
        is_leaf=lambda leaf: leaf is None,
    )
