"""The moments of any regression task, by simulation to a requested precision."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Key

from mesalens import random
from mesalens.checks import InputError, positive
from mesalens.tasks import Covariates, RegressionTask
from mesalens.theory._requirements import independent
from mesalens.theory.certificate import lower_bound
from mesalens.theory.moments import ContextMoments, estimate
from mesalens.theory.preconditioner import best_preconditioner
from mesalens.theory.symmetric import svec

GROUPS = 20
LARGEST = 48
MOST_PROMPTS = 200_000_000
RELATIVE_ERROR = 1e-3
"""What the risks that moments give have, unless another one is asked for."""

Progress = Callable[[str, int], Callable[[int], object]]
Sums = dict[str, Any]
"""Sums over prompts, by the fields of `ContextMoments` that they are of."""


def simulated_moments(
    task: RegressionTask,
    *,
    key: Key[Array, ""] | None = None,
    relative_error: float = RELATIVE_ERROR,
    progress: Progress = lambda title, total: lambda done: None,
) -> ContextMoments:
    r"""The moments of any regression task, simulated to a requested precision.

    Prompts are drawn until the risk of the best step of descent and the certified bound have the
    requested relative error, by the jackknife over 20 groups of prompts
    ([`estimate`][mesalens.theory.estimate]). They are drawn in chunks and summed, so that memory
    does not grow with their number. Each of the n + 1 examples of a prompt serves as its query in
    turn:

    $$E[S \otimes z_q \otimes y_q] =
    \frac{1}{n+1} E\Big[\sum_j (S_\text{all} - e_j e_j^T) \otimes z_j \otimes y_j\Big].$$

    Args:
        task: Any regression task.
        key: A random key. By default `mesalens.random.key(0)`.
        relative_error: The relative error of the risk and of the bound.
        progress: `progress(title, prompts)` returns a function that is called with the number of
            prompts that are done.

    Returns:
        The moments, with `replicates` for standard errors.

    Raises:
        ValueError: If labels are not finite, d + m is above 48, or 2 · 10⁸ prompts do not give the
            precision (heavy tails).
    """
    positive("relative_error", relative_error)
    covariates, R = independent(task).covariates.standardised()
    r, m, k = R.shape[1], task.outputs, int(task.distractors.count)
    if r + m > LARGEST:
        raise InputError(f"d + m must be at most {LARGEST} for simulated moments; got {r + m}.")
    pairs = (r + m) * (r + m + 1) // 2
    chunk = int(np.clip(2**22 // (pairs * (task.context_length + 1)), 8, 1024))
    known = {"query": covariates.second_moment()} if covariates.knows_moments else {}

    def moments_of(sums: Sums, prompts: int) -> ContextMoments:
        means: Sums = {name: value / prompts for name, value in sums.items()} | known
        noise = float(task.distractors.variance) * np.eye(m)
        distracted = svec(scipy.linalg.block_diag(means["query"], noise))
        cross = (1 - k / task.context_length) * means["cross"]
        means["cross"] = cross + k * np.multiply.outer(distracted, means["target"])
        means["null_risk"] = float(means["null_risk"])
        return ContextMoments(inputs=R, **means)

    key = random.unroll(random.key(0) if key is None else key)
    sums: Sums = {}
    rounds, wanted = 0, max(1, -(-20 * pairs // (GROUPS * chunk)), -(-1024 // chunk))
    while True:
        report = progress("simulating moments of S", wanted * GROUPS * chunk)
        for number in range(rounds, wanted):
            round_key = jax.random.fold_in(key, np.uint32(number))
            drawn = jax.device_get(_sums(task, covariates, R, round_key, chunk))
            if not all(np.isfinite(value).all() for value in drawn.values()):
                raise InputError(
                    f"{type(task.functions).__name__} and {type(task.noise).__name__} give labels "
                    "that are not finite, or too large for float32."
                )
            sums = {name: sums.get(name, 0.0) + np.float64(value) for name, value in drawn.items()}
            report((number + 1) * GROUPS * chunk)
        rounds = wanted
        moments = _with_jackknife(sums, rounds * chunk, moments_of)
        share = _relative_error(moments) / relative_error
        if share <= 1:
            return moments
        needed = rounds * 1.1 * share**2
        wanted = int(np.ceil(min(needed, 8.0 * rounds)))
        # The first errors are rough, hence ten times as many before giving up
        if max(wanted, needed / 10) * GROUPS * chunk > MOST_PROMPTS:
            raise InputError(
                f"relative_error={relative_error:g} needs more than {MOST_PROMPTS:,} prompts (it "
                f"was {share * relative_error:.2g} after {rounds * GROUPS * chunk:,}); ask for "
                "less precision, or choose lighter tails."
            )


@eqx.filter_jit
def _sums(
    task: RegressionTask, covariates: Covariates, R, key: Key[Array, ""], chunk: int
) -> dict[str, Array]:
    """Sums over the prompts of one chunk for each group."""
    examples = task.context_length + 1

    def of_chunk(key):
        covariate_key, function_key, noise_key, distractor_key = jax.random.split(key, 4)
        zs = covariates.sample(covariate_key, (chunk, examples))
        xs = zs @ jnp.asarray(R.T, zs.dtype)
        ys = task.noise(noise_key, task.functions(function_key, xs), xs)
        tokens = jnp.concatenate([zs, ys], axis=-1)
        labels = task.distractors(distractor_key, ys[:, :-1])
        context = jnp.concatenate([zs[:, :-1], labels], axis=-1)
        s = svec(jnp.einsum("nia,nib->nab", context, context))
        every = svec(tokens[..., :, None] * tokens[..., None, :])
        products = zs[..., :, None] * ys[..., None, :]
        targets = products.reshape(chunk, examples, -1)
        left_out = jnp.einsum("np,nl->pl", every.sum(1), targets.sum(1))
        left_out -= jnp.einsum("njp,njl->pl", every, targets)
        return {
            "mean": s.sum(0),
            "second": s.T @ s,
            "cross": (left_out / examples).reshape(-1, *products.shape[2:]),
            "target": products.mean(1).sum(0),
            "query": jnp.einsum("nja,njb->ab", zs, zs) / examples,
            "null_risk": jnp.sum(ys**2) / examples,
        }

    return jax.lax.map(of_chunk, jax.random.split(key, GROUPS))


def _with_jackknife(sums: Sums, prompts: int, moments_of) -> ContextMoments:
    """The moments of all groups, and those that leave one out; a group has `prompts` prompts."""
    total = {name: value.sum(axis=0) for name, value in sums.items()}

    def without(group: int) -> ContextMoments:
        rest = {name: total[name] - value[group] for name, value in sums.items()}
        return moments_of(rest, (GROUPS - 1) * prompts)

    replicates = tuple(map(without, range(GROUPS)))
    return dataclasses.replace(moments_of(total, GROUPS * prompts), replicates=replicates)


def _relative_error(moments: ContextMoments) -> float:
    """The larger relative error of risk and bound, which count as a millionth of E‖y‖² if below."""
    values, errors = estimate(
        lambda each: {"risk": best_preconditioner(each)[1], "bound": lower_bound(each)}, moments
    )
    least = 1e-6 * moments.null_risk or 1.0  # where all labels are 0, so are the errors
    return max(errors[name] / max(abs(values[name]), least) for name in values)
