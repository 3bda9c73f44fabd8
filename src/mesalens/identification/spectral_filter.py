"""The spectral filter of a learner, measured: its effect on each eigenvalue of X^T X / n.

A learner that is affine in the labels and in the query, depends on the context through S alone, and
is equivariant under rotations predicts

    ŷ = x_q^T U g(λ) U^T X^T y / n,      X^T X / n = U diag(λ) U^T.

Its g is measured without a fit. In a context of the task one eigenvalue is replaced by λ, with the
eigenvector u, and the labels are `y = n X (X^T X)^-1 u s`, so that `X^T y / n = s u`. Then the
prediction for the query r u, minus that for labels 0, is `r s g(λ)`. For the query r u' with
another eigenvector u' it is 0; the size of what is measured there shows how far the learner is from
having a filter. The value of g is the mean over contexts, and the spread shows what else it depends
on.
"""

from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.identification.evidence import Evidence
from mesalens.identification.fingerprint import Fingerprint
from mesalens.identification.fit import Fitted
from mesalens.identification.members import has_filter
from mesalens.identification.prompts import Prompts, Source, has_classes
from mesalens.identification.subject import Subject

GRID, CONTEXTS = 12, 64
"""The number of eigenvalues at which g is measured, and of contexts for each."""

DRAWS = 1000
"""Bootstrap draws for the simultaneous band."""

NEEDED = ("sum-only", "affine-in-labels", "affine-in-query", "rotation")


@dataclass(frozen=True)
class SpectralFilter:
    """The filter g at several eigenvalues, after each layer or for the prediction only.

    `pointwise` and `simultaneous` are half widths of confidence bands over contexts. `across` is
    the root mean square of the predictions for queries along other eigenvectors, relative to that
    of g; it is 0 for a learner that has a filter.
    """

    eigenvalues: Float[np.ndarray, " grid"]
    values: Float[np.ndarray, "layers grid"]
    pointwise: Float[np.ndarray, "layers grid"]
    simultaneous: Float[np.ndarray, "layers grid"]
    across: Float[np.ndarray, " layers"]


def spectral_filters(
    subject: Subject, source: Source, evidence: Evidence, properties: Fingerprint, error: float
) -> tuple[SpectralFilter | None, str]:
    """The spectral filter of a learner, or None and the reason why it has none."""
    task = source.task
    if has_classes(task):
        return None, "labels are classes"
    if task.dim < 2 or task.context_length < 2:
        return None, "inputs or contexts have a single dimension"
    broken = [
        each.words for each in properties.properties if each.name in NEEDED and not each.holds
    ]
    if broken:
        return None, f"the learner does not have the property that {broken[0]}"
    rng = source.rng(3)
    grid, prompts, sizes = _prompts(source, rng)
    zero = Prompts(prompts.xs, 0 * prompts.ys, prompts.queries)
    try:
        answers, offsets = subject.layers(prompts), subject.layers(zero)
        if answers is None or offsets is None:
            answers, offsets = (subject(each, keep=False)[:, None] for each in (prompts, zero))
        answers = answers - offsets
    except InputError as failure:
        return None, str(failure).rstrip(".")
    layers = answers.shape[1]
    gains = answers[..., 0].T.reshape(layers, GRID, CONTEXTS, 2) / sizes[..., None]
    along, across = gains[..., 0], gains[..., 1]
    values = along.mean(axis=-1)
    pointwise, simultaneous = _bands(along, rng, error)
    size, rest = (np.mean(part**2, axis=(1, 2)) for part in (along, across))
    off = np.sqrt(rest / np.where(size > 0, size, 1))  # a layer may have no effect
    return SpectralFilter(grid, values, pointwise, simultaneous, off), ""


def _prompts(source: Source, rng: np.random.Generator) -> tuple[np.ndarray, Prompts, np.ndarray]:
    """The eigenvalues; prompts for each, with queries along u and u' in turn; the products r s."""
    drawn = source.draw(GRID * CONTEXTS, (3,))
    xs = drawn.xs.astype(float)
    n, d = xs.shape[1:]
    left, singular, right = np.linalg.svd(xs, full_matrices=False)
    spectrum = singular**2 / n
    grid = np.quantile(spectrum, np.linspace(0.05, 0.95, GRID))
    wanted = np.repeat(grid, CONTEXTS)
    rows = np.arange(len(xs))
    place = np.abs(np.log(spectrum / wanted[:, None])).argmin(axis=1)
    singular[rows, place] = np.sqrt(n * wanted)
    xs = (left * singular[:, None, :]) @ right
    direction = right[rows, place]
    another = right[rows, (place + 1) % right.shape[1]]
    length = np.sqrt(np.mean(np.sum(drawn.queries**2, axis=-1)))
    # Labels of typical size: y = n / singular · left · s
    labels = left[rows, :, place] * np.sqrt(n) * drawn.ys.std()
    sizes = length * drawn.ys.std() * singular[rows, place] / np.sqrt(n)
    ys = np.zeros(drawn.ys.shape)
    ys[..., 0] = labels
    queries = length * np.stack([direction, another], axis=1)
    twice = np.repeat(rows, 2)
    prompts = Prompts(xs[twice], ys[twice], queries.reshape(-1, d))
    return grid, prompts, sizes.reshape(GRID, CONTEXTS)


def _bands(
    along: Float[np.ndarray, "layers grid contexts"], rng: np.random.Generator, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of the pointwise and the simultaneous band, by a bootstrap over contexts.

    The simultaneous band is the pointwise standard error times the quantile of the largest
    deviation over the grid, in standard errors (sup-t).
    """
    contexts = along.shape[-1]
    spread = along.std(axis=-1, ddof=1) / np.sqrt(contexts)
    counts = rng.multinomial(
        contexts, np.full(contexts, 1 / contexts), size=(DRAWS, along.shape[1])
    )
    drawn = np.einsum("lgc,bgc->blg", along, counts / contexts) - along.mean(axis=-1)
    largest = np.max(np.abs(drawn) / np.where(spread > 0, spread, np.inf), axis=-1)
    factor = np.quantile(largest, 1 - error, axis=0)[:, None]
    point = scipy.special.ndtri(1 - error / 2)
    return point * spread, np.maximum(factor, point) * spread


def of_candidate(
    fitted: Fitted, source: Source, grid: Float[np.ndarray, " grid"]
) -> Float[np.ndarray, " grid"] | None:
    """The filter of a fitted candidate at the same eigenvalues, or None if it has none.

    If it depends on the other eigenvalues of a context, it is averaged over contexts.
    """
    learner = fitted.learner
    if not has_filter(learner) or getattr(learner, "centres_inputs", False):
        return None
    spectrum = source.draw(GRID * CONTEXTS, (3,)).spectrum.eigenvalues
    contexts = np.sort(np.maximum(spectrum[:CONTEXTS], 1e-12), axis=1)
    n = source.task.context_length
    values = []
    for eigenvalue in grid:
        place = np.abs(np.log(contexts / eigenvalue)).argmin(axis=1)
        changed = contexts.copy()
        changed[np.arange(len(changed)), place] = eigenvalue
        order = np.argsort(changed, axis=1)
        ordered = np.take_along_axis(changed, order, axis=1)
        g = learner.spectral_filter(ordered, n)
        back = np.argsort(order, axis=1)[np.arange(len(changed)), place]
        values.append(g[np.arange(len(changed)), back].mean())
    return np.array(values)
