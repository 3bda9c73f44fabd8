"""`Prompts`: a batch of prompts in NumPy, for the learner and for candidates."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Key

from mesalens.checks import InputError
from mesalens.program_cache import seldom
from mesalens.prompt import Prompt
from mesalens.tasks import ClassificationTask, Task

BATCH = 1024
"""The number of prompts drawn or answered at once; always the same, so one program is enough."""


MOST_PROMPTS = 2**20
"""The largest number of prompts in a regime."""


class Spectrum(NamedTuple):
    """`X^T X / n = U diag(λ) U^T` of each context, with query and sums in that basis.

    A learner with the spectral filter g predicts `Σ_i query_i g(λ_i) sums_i`.
    """

    eigenvalues: Float[np.ndarray, "batch d"]
    vectors: Float[np.ndarray, "batch d d"]
    query: Float[np.ndarray, "batch d"]
    sums: Float[np.ndarray, "batch d m"]


class Nodes(NamedTuple):
    """Least squares for a filter in terms of its values at Chebyshev nodes.

    With g interpolated between them, the mean of `‖Σ_i query_i g(λ_i) sums_i - answer‖²` is
    `‖root g - axes^T answers‖²` plus a constant.
    """

    eigenvalues: Float[np.ndarray, " nodes"]
    root: Float[np.ndarray, "nodes nodes"]
    axes: Float[np.ndarray, "answers nodes"]


NODES = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts without targets; everything derived from them is computed once.

    Numbers are rounded to float32, as most learners read them. Candidates read the same numbers in
    float64.
    """

    xs: Float[np.ndarray, "batch n d"]
    ys: Float[np.ndarray, "batch n m"]
    queries: Float[np.ndarray, "batch d"]

    def __post_init__(self):
        for name in ("xs", "ys", "queries"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def context_length(self) -> int:
        """n, the number of examples."""
        return self.xs.shape[1]

    def __getitem__(self, rows: Any) -> "Prompts":
        return Prompts(self.xs[rows], self.ys[rows], self.queries[rows])

    @classmethod
    def joined(cls, batches: Sequence["Prompts"]) -> "Prompts":
        """All prompts of several batches, which keep what was computed of them."""
        if len(batches) == 1:
            return batches[0]
        parts = ([getattr(b, name) for b in batches] for name in ("xs", "ys", "queries"))
        whole = cls(*map(np.concatenate, parts))
        whole.__dict__["batches"] = tuple(batches)
        return whole

    @functools.cached_property
    def batches(self) -> tuple["Prompts", ...]:
        """The batches of equal size in which programs read them."""
        return (self,)

    @functools.cached_property
    def few(self) -> "Prompts":
        """A quarter of the prompts, for rough searches."""
        return self[: len(self) // 4]

    def swapped(self) -> "Prompts":
        """The queries with the contexts of their partners (0 and 1, 2 and 3, …)."""
        partner = np.arange(len(self)) ^ 1
        return Prompts(self.xs[partner], self.ys[partner], self.queries)

    @functools.cached_property
    def in_float64(self) -> Prompt:
        """The batch for learners in JAX; used within `jax.enable_x64`."""
        with jax.enable_x64(True):
            parts = (np.asarray(x, np.float64) for x in (self.xs, self.ys, self.queries))
            return Prompt(*map(jax.device_put, parts))  # `jnp.asarray` would compile each shape

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the inputs."""
        return spectrum(self.xs, self.ys, self.queries)

    @functools.cached_property
    def centred_spectrum(self) -> Spectrum:
        """The spectrum of the inputs minus their mean in each context."""
        xs = np.asarray(self.xs, np.float64)
        return spectrum(xs - xs.mean(1, keepdims=True), self.ys, self.queries)

    @functools.cached_property
    def deviations(self) -> Spectrum:
        """The spectrum of deviations of inputs, labels and query from the means of the context."""
        xs = np.asarray(self.xs, np.float64)
        query = np.einsum("bd,bdi->bi", self.queries - xs.mean(1), self.centred_spectrum.vectors)
        return self.centred_spectrum._replace(query=query)  # Σ_i (x_i - x̄) ȳ = 0

    @functools.cached_property
    def mean_labels(self) -> Float[np.ndarray, "batch m"]:
        """The mean label of each context."""
        return np.asarray(self.ys, np.float64).mean(axis=1)

    @functools.cached_property
    def nodes(self) -> Nodes:
        """The nodes of the spectrum."""
        return nodes(self.spectrum)

    @functools.cached_property
    def centred_nodes(self) -> Nodes:
        """The nodes of the centred spectrum."""
        return nodes(self.centred_spectrum)


def spectrum(xs: np.ndarray, ys: np.ndarray, queries: np.ndarray) -> Spectrum:
    """The `Spectrum` of contexts, in float64."""
    xs, ys, queries = (np.asarray(x, np.float64) for x in (xs, ys, queries))
    n = xs.shape[1]
    eigenvalues, vectors = np.linalg.eigh(xs.mT @ xs / n)
    query = np.einsum("bd,bdi->bi", queries, vectors)
    return Spectrum(np.maximum(eigenvalues, 0), vectors, query, vectors.mT @ (xs.mT @ ys) / n)


def nodes(spectrum: Spectrum) -> Nodes:
    """The `Nodes` of a batch, from 0 to its largest eigenvalue."""
    chebyshev = np.polynomial.chebyshev
    points, half = chebyshev.chebpts1(NODES), (spectrum.eigenvalues.max() or 1.0) / 2
    terms = chebyshev.chebvander(spectrum.eigenvalues / half - 1, NODES - 1)
    weights = spectrum.query[..., None] * spectrum.sums
    series = np.einsum("bim,bik->bmk", weights, terms).reshape(-1, NODES)
    interpolated = series @ np.linalg.inv(chebyshev.chebvander(points, NODES - 1))
    axes, root = np.linalg.qr(interpolated)
    size = np.sqrt(len(spectrum.query))
    return Nodes(half * (1 + points), root / size, axes / size)


class Source:
    """Draws prompts of a task for different purposes, each with its own key.

    The prompts 2j and 2j + 1 have the same query and independent contexts.

    Args:
        task: The distribution of prompts.
        key: A random key.
    """

    def __init__(self, task: Task, key: Key[jax.Array, ""]):
        self.task, self.key = task, key
        self._programs: dict[int, Callable[..., Any]] = {}

    def rng(self, *place: int) -> np.random.Generator:
        """A different generator for each place."""
        data = np.asarray(jax.random.key_data(self.key), np.uint32).ravel().tolist()
        return np.random.default_rng([*data, *place])

    def draw(self, count: int, place: tuple[int, ...], times: int = 1) -> Prompts:
        """An even number of prompts, at most `BATCH`, with contexts `times` as long as the task's.

        Raises:
            ValueError: if the context length of the task cannot be changed.
        """
        task = self.task if times == 1 else longer(self.task, times)
        if times not in self._programs:
            options: Any = {"compiler_options": seldom()}
            draw = jax.jit(lambda key: task.sample(key, (BATCH,))[0], **options)
            self._programs[times] = draw
        key = self.key
        for part in place:
            key = jax.random.fold_in(key, np.uint32(part))
        prompt = self._programs[times](key)
        if not isinstance(prompt, Prompt):
            raise InputError("task must not be condensed: identification needs the examples.")
        queries = np.repeat(np.asarray(prompt.query)[::2], 2, axis=0)
        return Prompts(np.asarray(prompt.xs), np.asarray(prompt.ys), queries)[:count]


def longer(task: Task, times: int) -> Task:
    """The task with contexts `times` as long.

    Raises:
        ValueError: if its class does not have `context_length` as a field.
    """
    names = {field.name for field in dataclasses.fields(task)}
    if "context_length" not in names:
        raise InputError(f"{type(task).__name__} has no field context_length that can be changed.")
    return dataclasses.replace(task, context_length=times * task.context_length)


def has_classes(task: Task) -> bool:
    """Whether the labels of a task are classes, which cannot be scaled."""
    return isinstance(task, ClassificationTask)
