"""Lu, Letey, Zavatone-Veth, Maiti and Pehlevan (2025): double descent, and task diversity."""

import jax
import numpy as np
import xarray as xr

from mesalens import atlas, learners, tasks
from mesalens.atlas import above, figures, within
from mesalens.theory import asymptotic_risk
from mesalens.training import fit_layer

STUDY = atlas.Study(
    "lu-2025",
    title="Asymptotic theory of in-context learning by linear attention",
    citation="Lu, Letey, Zavatone-Veth, Maiti and Pehlevan, PNAS 2025, arXiv 2405.11751",
    system="y = w·x + noise, with w one of κ d tasks and α d examples; one layer, fitted to τ d² "
    "prompts by ridge regression; d → ∞.",
    note="Formulas are derived in `theory.asymptotic_risk`. There are τ times as many prompts as "
    "unknowns. Our x are d times the paper's and our w 1/d times: the norm of weights is the same.",
    unchecked={"nonlinear-transformers": "Figures 5 and 6 train softmax attention, on GPUs."},
    settings={"seeds": (16, 32, 64), "dims": (20, 40), "context": 10.0, "noise": 0.01}
    | {"limit_dim": 400, "bayes_dims": (8, 12, 16, 20), "bayes_prompts": 1000}
    | {"prompts": (0.25, 0.5, 1.0, 1.5, 2.5), "ridges": (0.0, 0.5), "pools": (0.25, 0.5, 1.0, 4.0)},
    quick={"dims": (16, 32), "prompts": (0.5, 1.0, 2.0), "pools": (0.5, 4.0)},
    full={},
    paper={"dims": (50, 100), "prompts": (0.2, 0.5, 0.85, 1.0, 1.15, 1.5, 2.0)},
    small={"seeds": (4, 8, 16), "dims": (8, 16), "bayes_dims": (4, 8), "limit_dim": 200}
    | {"prompts": (0.5, 1.0, 1.5), "pools": (0.5, 4.0)},
)
ON, FEW, TWICE = ["new tasks", "the pool"], 0.5, (2.0,)


class Pool(tasks.FinitePool):
    """Tasks drawn from the sphere of radius 1/√d; `scale` is 1/d."""

    @property
    def pool(self):
        W = super().pool
        return self.scale * self.dim**0.5 * W / jax.numpy.linalg.norm(W, axis=-1, keepdims=True)


def law(lab, d, size, *words, longer=1.0):
    """Prompts with x ~ N(0, d I) and one of `size` tasks."""
    s, seed = lab.settings, int(lab.rng(f"{size} of {d}", *words).integers(2**32))
    factors = tasks.Gaussian(d, scale=d**0.5), Pool(d, size=size, scale=1 / d, pool_seed=seed)
    rest = {"noise": tasks.GaussianNoise(s.noise), "context_length": round(s.context * longer * d)}
    return tasks.CondensedTask(tasks.RegressionTask(*factors, **rest))


def moments(law, new=False):
    """Exact E y², E[u w^T] and E[u u^T] of `u = Σ_i y_i (x_i, y_i)`, for the pool or new tasks.

    Given w, y (x, y) has the mean g = (d w, v) with v = E y² = 1 + ρ. So E[u w^T] = n g w^T, and
    E[u u^T] is n (n + 2) g g^T, plus n d (v I - d w w^T) in the block of x.
    """
    d, n, v = law.dim, law.context_length, 1 + law.task.noise.variance
    W = np.asarray(law.task.functions.pool, float)[:, 0]
    mean, second = (0 * W[0], np.eye(d) / d**2) if new else (W.mean(0), W.T @ W / len(W))
    border = np.append((n + 2) * d * v * mean, (n + 2) * v**2)
    block = d * v * np.eye(d) + (n + 1) * d**2 * second
    squares = np.vstack([np.column_stack([block, border[:d]]), border])
    return v, n * np.vstack([d * second, v * mean]), n * squares


def risks(A, law):
    """Risks of ŷ = u^T A x_q on new tasks and on the pool, from these moments."""
    A = np.asarray(A, float)
    each = (moments(law, new) for new in (True, False))
    return [v + law.dim * np.sum(A * (squares @ A - 2 * cross)) for v, cross, squares in each]


def fitted(lab, d, diversity, prompts=TWICE, ridge=0.0, longer=1.0):
    """Risks of layers fitted to τ d (d + 1) prompts, for several τ; κ d is rounded."""
    prompted = law(lab, d, max(1, round(diversity * d)), longer=longer)
    numbers = [round(tau * d * (d + 1)) for tau in prompts]
    drawn = prompted.sample(lab.key(f"{d} {diversity}"), (max(numbers),))
    first = [jax.tree.map(lambda array, n=n: array[:n], drawn) for n in numbers]
    layers = [fit_layer(*each, ridge=ridge * d * prompted.context_length**2) for each in first]
    return np.array([risks(each.effective()[0][0, 0, :, :d], prompted) for each in layers])


def limits(s, diversity, prompts=TWICE, ridge=0.0):
    """The same risks by the formulas."""
    return np.array([asymptotic_risk(s.context, diversity, tau, s.noise, ridge) for tau in prompts])


@STUDY.measurement
def by_prompts(lab, more=0.0):
    """Risks for several d, ridges and τ."""
    s = lab.settings
    fits = [[fitted(lab, d, FEW, s.prompts, ridge + more) for ridge in s.ridges] for d in s.dims]
    labels = {"d": s.dims, "ridge": s.ridges, "tau": s.prompts, "on": ON}
    return {"risk": xr.DataArray(fits, {name: list(each) for name, each in labels.items()})}


false = {"fits": by_prompts.given(more=5.0)}


@STUDY.claim("Figure 1", within(0.2), headline=True, must_fail_on=false)
def formulas(lab, fits=by_prompts):
    """As d → ∞, the risks on new tasks and on the pool are given by the formulas, for all ridges.

    Measured: (2 R(2d) - R(d)) / R(∞) - 1 with exact risks of fitted layers, for all τ except 1.
    """
    s, found = lab.settings, fits.risk.drop_sel(tau=1)
    found = 2 * found.isel(d=1) - found.isel(d=0)
    return found / [limits(s, FEW, found.tau.values, ridge) for ridge in s.ridges] - 1


@STUDY.claim("Figure 1A", above(0.7), headline=True, must_fail_on=false)
def double_descent(lab, fits=by_prompts):
    """Without a ridge, the risk on new tasks has a peak at τ = 1, twice as high as elsewhere.

    Measured: log(R(1) / R(τ)) for the other τ and all d.
    """
    logs = np.log(fits.risk.isel(ridge=0, on=0, drop=True))
    return logs.sel(tau=1) - logs.drop_sel(tau=1)


@STUDY.claim("Figure 2C", above(0.2), headline=True, must_fail_on={"diversity": 4.0})
def long_contexts_hurt(lab, diversity=FEW):
    """If there are few tasks, ten times as many examples make the risk on new tasks higher.

    Measured: R(10 α) / R(α) - 1 for layers that are fitted to, and read, contexts of that length.
    """
    given = lab, lab.settings.dims[0], diversity
    return fitted(*given, longer=10.0)[0, 0] / fitted(*given)[0, 0] - 1


@STUDY.claim("Figure 4", within(0.15), headline=True, must_fail_on={"times": 8})
def gap(lab, times=1):
    """As d → ∞, the gap (the risk on new tasks minus that on the pool) is that of the formulas.

    Measured: 2 G(2d) - G(d) - G(∞) for the gap G of fitted layers; E y² is 1 + ρ.
    """

    def excess(kappa):
        few, many = (fitted(lab, d, times * kappa) for d in lab.settings.dims)
        return np.diff(few - 2 * many + limits(lab.settings, kappa))[0, 0]

    return atlas.settings_of(excess, lab.settings.pools, "kappa")


@STUDY.claim("Figure 4", within(0.05), headline=True, must_fail_on={"longer": 0.1})
def transition(lab, longer=30.0):
    """For τ → ∞ and long contexts, the gap is 1 - κ below κ = 1, and 0 above.

    Measured: G - max(1 - κ, 0) of the layer with the least risk on the pool, exact for the given d.
    """
    d = lab.settings.limit_dim

    def excess(kappa):
        pool = law(lab, d, round(kappa * d), longer=longer)
        _, cross, squares = moments(pool)
        new, old = risks(np.linalg.solve(squares, cross), pool)
        return new - old - max(1 - kappa, 0)

    return atlas.settings_of(excess, (0.25, 0.5, 0.75, 1.0, 1.5, 2.0), "kappa")


@STUDY.claim("Figure 4", above(0.3), headline=True, must_fail_on={"known": False})
def bayes_memorises(lab, known=True):
    """The Bayes predictor for a pool still has a large gap if the pool has 2^(d/2) tasks.

    Measured: its gap, for several d. As noise vanishes, it predicts with the nearest task of the
    pool, and for 2^(Rd) tasks the gap becomes 2 - 2 √(1 - 4^-R): 0.59 for R = 1/2, for any d.
    """
    s = lab.settings

    def gap(d):
        pool, new = law(lab, d, 2 ** (d // 2)), law(lab, d, s.bayes_prompts, "new")
        bayes = learners.DiscreteBayes(pool.task.functions.pool, s.noise)  # pyright: ignore
        predict = jax.vmap(bayes if known else learners.LeastSquares())
        drawn = [each.sample(lab.key(f"{d}"), (s.bayes_prompts,)) for each in (pool, new)]
        return np.diff([np.mean((predict(prompts) - y) ** 2) for prompts, y in drawn])[0]

    return atlas.settings_of(gap, s.bayes_dims, "d")


@STUDY.figure(shows=[formulas, double_descent])
def descent_twice(lab, fits=by_prompts):
    """Risk against the number of prompts, without a ridge: the limit d → ∞, and a dot per seed."""
    last, taus = fits.risk.isel(d=-1, ridge=0), np.geomspace(0.1, 4, 101)
    exact = limits(lab.settings, FEW, taus).T
    lines = {f"{on}, d → ∞": (taus, values) for on, values in zip(ON, exact, strict=True)}
    points = {f"{on}, d = {int(last.d)}": last.sel(on=on).reset_coords(drop=True) for on in ON}
    return figures.risk_against("prompts / d²", lines, points, yscale="log")


@STUDY.figure(shows=[gap, transition, bayes_memorises])
def task_diversity(lab, layers=gap, bayes=bayes_memorises):
    """The gap against the number of tasks: the limit, and each seed (of layers, 2 G(2d) - G(d))."""
    s, kappas = lab.settings, np.geomspace(0.2, 60, 100)
    exact, at_dots = (-np.diff([limits(s, k)[0] for k in each])[:, 0] for each in (kappas, s.pools))
    lines = {f"layers, {TWICE[0]:g} d² prompts": (kappas, exact)}
    lines["layers, τ → ∞ and long contexts"] = kappas, np.maximum(1 - kappas, 0)
    known = bayes.value.assign_coords(d=2 ** (bayes.d // 2) / bayes.d)
    points = {"Bayes predictor, 2^(d/2) tasks": known, "layers": layers.value + at_dots}
    label = "R(new tasks) − R(the pool)"
    return figures.risk_against("tasks / d", lines, points, xscale="log", ylabel=label)
