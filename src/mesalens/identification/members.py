"""The predictions of members of a family, computed in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mesalens.identification.candidates import Candidate, Parameters
from mesalens.identification.prompts import Prompts, Spectrum
from mesalens.learners import Learner, WithIntercept
from mesalens.learners.base import predict, predict_iterates
from mesalens.program_cache import compiled_once
from mesalens.prompt import Prompt


class Members:
    """The members of a family with one choice, as a function of its parameters.

    Args:
        candidate: The family.
        choice: The choice, if the family has choices.
        start: The parameters of one member.
    """

    def __init__(self, candidate: Candidate, choice: int | None, start: Parameters):
        self.candidate, self.choice, self.start = candidate, choice, start

    def __call__(self, parameters: Parameters) -> Learner:
        """The member with given parameters; must be called within `jax.enable_x64`."""
        made = self.of_fields or functools.partial(self.candidate.learner, self.choice)
        return made(parameters)

    @functools.cached_property
    def first(self) -> Learner:
        """The member with the parameters of the start."""
        with jax.enable_x64(True):
            return self.candidate.learner(self.choice, self.start)

    @functools.cached_property
    def of_fields(self) -> Callable[[Parameters], Any] | None:
        """A constructor of members, if the parameters are exactly the fields of a member.

        It is faster than the class, which would check and convert the parameters each time.
        """
        leaves, tree = jax.tree.flatten_with_path(self.first)
        names = [jax.tree_util.keystr(path, simple=True) for path, _ in leaves]
        values = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
        same = values.keys() == self.start.keys() and all(
            np.array_equal(np.asarray(values[name]), np.asarray(self.start[name]))
            for name in values
        )
        return (lambda of: tree.unflatten([of[name] for name in names])) if same else None


def predictions(
    candidate: Candidate, choice: int | None, parameters: Parameters, prompts: Prompts
) -> Float[np.ndarray, "batch m"]:
    """The predictions of the member with a choice and parameters."""
    if candidate.iterates:
        assert choice is not None
        return iterates(candidate, prompts)[choice]
    with jax.enable_x64(True):
        return answers(candidate.learner(choice, parameters), prompts)


def answers(learner: Learner, prompts: Prompts) -> Float[np.ndarray, "batch m"]:
    """The predictions of a learner: by its spectral filter if it has one, else by its program.

    Must be called within `jax.enable_x64`, as must be the constructor of the learner.
    """
    if has_filter(learner):
        centred = getattr(learner, "centres_inputs", False)
        spectrum = prompts.centred_spectrum if centred else prompts.spectrum
        return by_filter(learner, spectrum, prompts.context_length)
    if isinstance(learner, WithIntercept) and has_filter(learner.algorithm):
        found = by_filter(learner.algorithm, prompts.deviations, prompts.context_length)
        return prompts.mean_labels + found
    arrays = in_arrays(learner)
    parts = [np.asarray(_predictions(arrays, part.in_float64)) for part in prompts.batches]
    return np.concatenate(parts)


def iterates(candidate: Candidate, prompts: Prompts) -> dict[int, np.ndarray]:
    """The predictions of all members of a family whose choices are iterates, by choice."""
    with jax.enable_x64(True):
        learner = in_arrays(candidate.build(max(candidate.choices)))
        parts = [np.asarray(_iterates(learner, part.in_float64)) for part in prompts.batches]
        found = np.concatenate(parts)
    return {choice: found[:, choice] for choice in candidate.choices}


def has_filter(learner: Learner) -> bool:
    """Whether a learner has a spectral filter, defined at or below the class that predicts."""
    if getattr(learner, "preconditioner", None) is not None:
        return False
    family = type(learner).__mro__
    filters, predicts = (
        next(place for place, each in enumerate(family) if names & vars(each).keys())
        for names in ({"spectral_filter"}, {"__call__", "iterates", "_descend"})
    )
    return family[filters] is not Learner and filters <= predicts


def by_filter(
    learner: Learner, spectrum: Spectrum, context_length: int
) -> Float[np.ndarray, "batch m"]:
    """The predictions of a learner with a spectral filter."""
    eigenvalues, vectors, query, sums = spectrum
    with np.errstate(all="ignore"):  # divergent algorithms overflow, and count as far
        g = learner.spectral_filter(eigenvalues, context_length)
        found = np.einsum("bi,bim->bm", query * g, sums)
        start = getattr(learner, "initial_weights", None)
        if start is not None:
            along = np.einsum("md,bdi->bim", np.asarray(start, float), vectors)
            found += np.einsum("bi,bim->bm", query * (1 - eigenvalues * g), along)
    return found


def in_arrays(learner: Learner) -> Learner:
    """The learner with its numbers as arrays, so that all values use the same program."""

    def array(leaf: Any) -> Any:
        if isinstance(leaf, bool) or not isinstance(
            leaf, int | float | np.generic | jax.Array | np.ndarray
        ):
            return leaf
        kind = np.int64 if np.issubdtype(np.asarray(leaf).dtype, np.integer) else np.float64
        return jax.device_put(np.asarray(leaf, kind))  # `jnp.asarray` would compile each shape

    return jax.tree.map(array, learner)


@compiled_once
def _predictions(learner: Learner, prompts: Prompt) -> Array:
    return jax.vmap(lambda prompt: predict(learner, prompt))(prompts)


@compiled_once
def _iterates(learner: Learner, prompts: Prompt) -> Array:
    return jax.vmap(lambda prompt: predict_iterates(learner, prompt))(prompts)
