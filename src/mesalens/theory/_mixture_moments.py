"""The moments of a mixture of laws of prompts: the mean of its components' joint moments."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from mesalens.theory.linear_prediction import whitening
from mesalens.theory.moments import ContextMoments, JointMoments
from mesalens.theory.symmetric import bilinear, svec


def mixture_moments(
    parts: Sequence[ContextMoments], probabilities: Float[np.ndarray, " K"]
) -> ContextMoments:
    """The moments of a mixture that draws a prompt from part k with probability π_k.

    Every moment is linear in the law of a prompt, hence `Σ_k π_k` times that of part k. This holds
    for `E[s ⊗ z ⊗ s ⊗ z]`, but not for its factors: if the covariances of queries differ, context
    and query share the component, and the mixture has a `joint` moment.

    Args:
        parts: Moments of the components. Simulated ones have equally many groups.
        probabilities: π_k, of shape (K,).

    Returns:
        The moments of the mixture.
    """
    if any(part.replicates for part in parts):
        groups = max(len(part.replicates) for part in parts)
        each = [part.replicates or (part,) * groups for part in parts]
        replicates = tuple(
            mixture_moments(group, probabilities) for group in zip(*each, strict=True)
        )
        plain = [dataclasses.replace(part, replicates=()) for part in parts]
        return dataclasses.replace(mixture_moments(plain, probabilities), replicates=replicates)
    parts = _in_one_frame(parts, probabilities)
    together = any(part.joint for part in parts) or any(
        not np.allclose(part.query, parts[0].query, rtol=1e-12, atol=0) for part in parts
    )

    def mean(values: Sequence[Any]) -> Any:
        return sum(share * value for share, value in zip(probabilities, values, strict=True))

    fields = ("query", "target", "mean", "second", "cross", "null_risk")
    means = {name: mean([getattr(part, name) for part in parts]) for name in fields}
    joint = None
    if together:
        each = [part.joint or _product(part) for part in parts]
        joint = JointMoments(mean([one.second for one in each]), mean([one.mean for one in each]))
    return ContextMoments(inputs=parts[0].inputs, joint=joint, **means)


def _product(moments: ContextMoments) -> JointMoments:
    """The joint moments where context and query share only f."""
    second = np.multiply.outer(moments.second, moments.query).transpose(0, 2, 1, 3)
    return JointMoments(second, np.multiply.outer(moments.mean, moments.query))


def _in_one_frame(
    parts: Sequence[ContextMoments], probabilities: Float[np.ndarray, " K"]
) -> Sequence[ContextMoments]:
    """The moments in the coordinates in which inputs of the mixture have covariance I."""
    if all(np.array_equal(part.inputs, parts[0].inputs) for part in parts):
        return parts
    covariances = [part.inputs @ part.query @ part.inputs.T for part in parts]
    H = whitening(np.einsum("k,kab->ab", probabilities, np.stack(covariances)))
    return [_transformed(part, H @ part.inputs, np.linalg.pinv(H)) for part in parts]


def _transformed(
    moments: ContextMoments, T: Float[np.ndarray, "s r"], inputs: Float[np.ndarray, "d s"]
) -> ContextMoments:
    """The moments in coordinates `T z`, with `x = inputs T z`."""
    E = scipy.linalg.block_diag(T, np.eye(moments.outputs))
    G = svec(np.moveaxis(bilinear(E[:, None], E), -1, 0)).T  # of E S E^T from S
    joint = moments.joint
    if joint is not None:
        second = np.einsum("up,sr,prqt,vq,wt->usvw", G, T, joint.second, G, T, optimize=True)
        joint = JointMoments(
            second, np.einsum("up,sr,prt,wt->usw", G, T, joint.mean, T, optimize=True)
        )
    return ContextMoments(
        inputs=inputs,
        query=T @ moments.query @ T.T,
        target=T @ moments.target,
        mean=G @ moments.mean,
        second=G @ moments.second @ G.T,
        cross=np.einsum("up,sr,prm->usm", G, T, moments.cross, optimize=True),
        null_risk=moments.null_risk,
        joint=joint,
    )
