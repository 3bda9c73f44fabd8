"""The moments of any regression task, by simulation to a requested precision."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.checks import InputError, positive
from mesalens.tasks import Covariates, RegressionTask
from mesalens.theory.certificate import lower_bound
from mesalens.theory.descent import best_descent
from mesalens.theory.moments import ContextMoments, estimate
from mesalens.theory.symmetric import svec

GROUPS = 20
LARGEST = 48
MOST_PROMPTS = 200_000_000

Sums = dict[str, Float[np.ndarray, "groups ..."]]


def simulated_moments(
    task: RegressionTask,
    *,
    key: Key[Array, ""] | None = None,
    relative_error: float = 1e-3,
    progress: Callable[[str, int], Callable[[int], object]] = lambda title, total: lambda done: None,
) -> ContextMoments:
    """Draws prompts until the risk of the best step of descent and the certified bound have the requested relative error.

    The error is that of the jackknife over 20 groups of prompts (`estimate`). Prompts are drawn in chunks and summed, so memory does
    not grow with their number. A prompt's n + 1 examples all serve as its query in turn:

        E[S ⊗ z_q ⊗ y_q] = 1/(n+1) E[Σ_j (S_all - e_j e_j^T) ⊗ z_j ⊗ y_j].

    `key` is `mesalens.random.key(0)` where it is not given; `progress(title, prompts)` gives the function that takes prompts done.

    Raises `ValueError` where labels are not finite, d + m is above 48, or 2 · 10⁸ prompts do not give the precision (heavy tails).
    """
    positive("the relative error", relative_error)
    covariates, R = task.covariates.standardised()
    size = R.shape[1] + task.outputs
    if size > LARGEST:
        raise InputError(
            f"d + m is {size}, and moments of all of S are simulated up to d + m = {LARGEST}; give a smaller task."
        )
    pairs, examples = size * (size + 1) // 2, task.context_length + 1
    chunk = int(np.clip(2**22 // (pairs * examples), 8, 1024))
    query = covariates.second_moment() if covariates.knows_moments else None

    def moments_of(sums: dict[str, np.ndarray], prompts: int) -> ContextMoments:
        mean = {name: value / prompts for name, value in sums.items()}
        M = mean["query"] if query is None else query
        target = mean["labels"].reshape(len(M), task.outputs)
        k = int(task.distractors.count)
        distracted = np.diag([0.0] * len(M) + [float(task.distractors.variance)] * task.outputs)
        distracted[: len(M), : len(M)] = M
        cross = (1 - k / task.context_length) * mean["left_out"] + k * np.outer(svec(distracted), target)
        return ContextMoments(
            inputs=R,
            query=M,
            target=target,
            mean=mean["mean"],
            second=mean["second"],
            cross=cross.reshape(pairs, len(M), task.outputs),
            null_risk=float(mean["null_risk"]),
        )

    key = random.unroll(random.key(0) if key is None else key)
    sums: Sums = {}
    rounds, wanted = 0, max(1, -(-20 * pairs // (GROUPS * chunk)), -(-1024 // chunk))
    while True:
        report = progress("simulating moments of S", wanted * GROUPS * chunk)
        while rounds < wanted:
            drawn = {
                name: np.asarray(value, np.float64)
                for name, value in _sums(task, covariates, R, jax.random.fold_in(key, np.uint32(rounds)), chunk).items()
            }
            if not all(np.isfinite(value).all() for value in drawn.values()):
                raise InputError(
                    f"{type(task.functions).__name__} gave labels that are not finite (NaN, or too large); mend the function."
                )
            sums = {name: sums.get(name, 0.0) + value for name, value in drawn.items()}
            rounds += 1
            report(rounds * GROUPS * chunk)
        moments = _with_jackknife(sums, rounds * chunk, moments_of)
        share = _relative_error(moments) / relative_error
        if share <= 1:
            return moments
        needed = rounds * 1.1 * share**2
        wanted = int(np.ceil(min(needed, 8.0 * rounds)))
        if (
            max(wanted, needed / 10) * GROUPS * chunk > MOST_PROMPTS
        ):  # the first errors are rough, so tenfold before giving up
            raise InputError(
                f"after {rounds * GROUPS * chunk:,} prompts the relative error is {share * relative_error:.2g}, and {relative_error:g} needs more than "
                f"{MOST_PROMPTS:,}; ask for less precision, or choose lighter tails."
            )


@eqx.filter_jit
def _sums(task: RegressionTask, covariates: Covariates, R, key: Key[Array, ""], chunk: int) -> dict[str, Array]:
    """Sums over the prompts of one chunk for each group."""
    examples = task.context_length + 1

    def of_chunk(key):
        covariate_key, function_key, noise_key, distractor_key = jax.random.split(key, 4)
        zs = covariates.sample(covariate_key, (chunk, examples))
        ys = task.noise(noise_key, task.functions(function_key, zs @ jnp.asarray(R.T, zs.dtype)))
        tokens = jnp.concatenate([zs, ys], axis=-1)
        context = jnp.concatenate([zs[:, :-1], task.distractors(distractor_key, ys[:, :-1])], axis=-1)
        s = svec(jnp.einsum("nia,nib->nab", context, context))
        every = svec(tokens[..., :, None] * tokens[..., None, :])
        labels = (zs[..., :, None] * ys[..., None, :]).reshape(chunk, examples, -1)
        left_out = jnp.einsum("np,nl->pl", every.sum(1), labels.sum(1)) - jnp.einsum("njp,njl->pl", every, labels)
        return {
            "mean": s.sum(0),
            "second": s.T @ s,
            "left_out": left_out / examples,
            "labels": labels.mean(1).sum(0),
            "query": jnp.einsum("nja,njb->ab", zs, zs) / examples,
            "null_risk": jnp.sum(ys**2) / examples,
        }

    return jax.lax.map(of_chunk, jax.random.split(key, GROUPS))


def _with_jackknife(sums: Sums, prompts: int, moments_of) -> ContextMoments:
    """The moments of all groups, with those that leave one group out; `prompts` is the number in one group."""
    total = {name: value.sum(axis=0) for name, value in sums.items()}
    replicates = tuple(
        moments_of({name: total[name] - value[group] for name, value in sums.items()}, (GROUPS - 1) * prompts)
        for group in range(GROUPS)
    )
    return dataclasses.replace(moments_of(total, GROUPS * prompts), replicates=replicates)


def _relative_error(moments: ContextMoments) -> float:
    """The greatest of the relative errors of risk and bound; values below a millionth of E‖y‖² count as that."""
    values, errors = estimate(lambda of: {"risk": best_descent(of)[1], "bound": lower_bound(of)}, moments)
    least = 1e-6 * moments.null_risk
    return max(errors[name] / max(abs(values[name]), least) for name in values) if least > 0 else 0.0
