"""Equations of the flow: its time course, its fixed points, and escapes from them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from mesalens import theory
from mesalens.atlas import below, every_seed_below
from mesalens.models import LinearTransformer, LowRank, Sparse
from mesalens.studies.mahankali_2023.study import random_covariance
from mesalens.studies.zhang_2025.study import LAYER, STUDY, flow_from, law, predicted

headline = partial(STUDY.claim, headline=True)


@headline("Section 3", every_seed_below(0.01), must_fail_on={"rate": 0.5})
def time_course(lab, rate=1.0):
    """For Σ = I and merged keys and queries whose small weights are balanced, n P is σ(t) I with
    σ = e^r / ((1 + (1 + d)/n) (e^r - 1) + √d/w²), r = 2√d t/τ, w² = n Σ_h b_h² and t/τ = 2n our t.

    Measured: the largest |P(t)/P* - σ(t)/σ(∞)|, where b_h are normals times 10⁻³.
    """
    s, d, b = lab.settings, 4, 1e-3 * lab.rng().normal(size=(1, 8, 1, 1))
    layer = LinearTransformer(Sparse(jnp.asarray(-b * np.eye(d) / 2), jnp.asarray(b)), layers=1)
    task, times = law(s, np.eye(d)), np.linspace(0, 4 / s.examples, 50)
    share = theory.merged_time_course(theory.task_moments(task), np.sum(b**2), rate * times)
    P = flow_from(layer, task, times, lab.key()).P[:, 0, 0]
    return np.abs(P * (s.examples + d + 1) - share).max()


@headline("Section 3", every_seed_below(1e-6), must_fail_on={"pairs": 0})
def two_layer_network(lab, pairs=1):
    """With keys and queries merged, the risk, and so its flow, is that of a linear network w^T W z
    of two layers with the same weights on the cubic features z = vec(Σ_i y_i x_i x_q^T).

    Measured: |R / R_network - 1| for random weights, E[z z^T] in closed form, and Σ random.
    """
    n, rng = lab.settings.examples, lab.rng()
    sigma = random_covariance(rng, 4)
    A, b = (np.float32(rng.normal(scale=n**-0.5, size=(1, 8, m, m))) for m in (4, 1))
    layer = LinearTransformer(Sparse(jnp.asarray(A), jnp.asarray(b)), layers=1)
    f = -b.ravel().astype(float) @ A.reshape(8, -1)
    K = n * sigma @ ((n + pairs) * sigma + np.trace(sigma) * np.eye(4))
    network = np.trace(sigma) - 2 * n * f @ (sigma @ sigma).ravel() + f @ np.kron(K, sigma) @ f
    moments = theory.task_moments(law(lab.settings, sigma))
    return abs(theory.layer_risk(layer, moments) / network - 1)


@headline("Abstract", every_seed_below(0.5), must_fail_on={"swapped": True})
def fixed_points(lab, swapped=False):
    """With rank 1, the step along each of the 2^d subsets of the eigenvectors is a fixed point of
    the flow; with keys and queries merged only two of them are: predicting 0, and the optimum.

    Measured: the number of subsets by which these two counts are missed, where a fixed point has
    ‖∂R/∂θ‖ < 10⁻⁹ at constructed weights.
    """
    d, found = len(lab.settings.spectrum), []
    sigma = np.diag(lab.rng().dirichlet(np.full(d, 20.0)))
    moments = theory.task_moments(law(lab.settings, sigma))
    with jax.enable_x64(True):
        for merge in (False, True):
            slopes = []
            for subset in range(2**d):
                layer = theory.fixed_point(moments, [i for i in range(d) if subset >> i & 1])
                if merge:
                    A, B = layer.effective()
                    layer = LinearTransformer(Sparse(A[..., :d, :d], B[..., d:, d:]), layers=1)
                slope = jax.grad(theory.population_risk)(layer, moments)
                slopes.append(np.linalg.norm(ravel_pytree(slope)[0]))
            found.append(np.sum(np.array(slopes) < 1e-9))
    return np.abs(np.subtract(found[::-1] if swapped else found, [2**d, 2])).max()


@headline("Section 4", below(0.05), must_fail_on={"off": 1})
def scalar_equation(lab, off=0):
    """From plateau m - 1, a head grows along eigenvector m by τ dv/dt = λ² v² - λ³ (1 + (1 +
    tr Σ/λ)/n) v⁵, where v = n^⅓ b and t/τ = 2 n^⅔ times our t.

    Measured: max |v(t) - v| / v(∞) from 5% of v(∞) on, with equal times at half of it; v(t)³ is n
    times the entry of P. Heads that have not learned have random weights.
    """
    s, d, far = lab.settings, len(lab.settings.spectrum), []
    moments, scale, limits = theory.task_moments(law(s)), 1e-4, np.cbrt(predicted(s)[1])
    small = LAYER(d, heads=s.heads, structure=LowRank.initialise, init_scale=scale, key=lab.key())
    for m in range(d):
        fixed, limit = theory.fixed_point(moments, range(m)), limits[(m + off) % d]
        layer = jax.tree.map(lambda a, b: np.concatenate([np.float32(a), b], 1), fixed, small)
        times = np.linspace(0, 8 / s.examples / s.spectrum[m] ** 2 / np.sqrt(scale), 8000)
        v = np.cbrt(flow_from(layer, law(s), times, lab.key()).P.values[:, m, m].clip(0))
        v_exact = theory.escape_time_course(moments, (m + off) % d, 0.05 * limit, times)
        shift = np.interp(limit / 2, v, times) - np.interp(limit / 2, v_exact, times)
        late = times > max(shift, np.interp(0.05 * limit, v, times))
        far.append(np.abs(v - np.interp(times - shift, times, v_exact))[late].max() / limit)
    return xr.DataArray(far, {"eigenvector": range(1, d + 1)})
