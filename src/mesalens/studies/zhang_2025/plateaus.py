"""Plateaus and drops of the risk."""

import dataclasses
from functools import partial

import numpy as np
import xarray as xr

from mesalens import analysis, plots, tasks, theory
from mesalens.atlas import above, below, figures, within
from mesalens.models import Sparse
from mesalens.studies.zhang_2025.study import LAYER, STUDY, flow, flow_from, law, predicted


@STUDY.measurement
def stairs(lab, flow=flow, examples=1.0):
    """Deviations of risk and P on plateaus; a level counts if the flow has a plateau near it."""
    risks, sizes = predicted(lab.settings, examples)
    found = analysis.plateaus(flow.time.values, flow.risk.values)
    distance = np.abs(found.losses[:, None] - risks)
    nearest = distance.argmin(0)
    counted = "level", distance.argmin(1)[nearest] == np.arange(len(risks))
    P = np.tri(len(risks), len(sizes), -1)[:, None] * np.diag(sizes)  # of m components
    off = np.linalg.norm(flow.P.sel(time=found.times[nearest]) - P, axis=(1, 2))
    off[1:] /= np.linalg.norm(P[1:], axis=(1, 2))
    values = {"risk": ("level", found.losses[nearest] / risks - 1), "P": ("level", off)}
    return xr.Dataset(values | {"drops": len(found.drops)}).assign_coords(counted=counted)


@STUDY.measurement
def left(lab, flow=flow):
    """When each plateau is left: when the risk is as near to the next one."""
    risks = predicted(lab.settings)[0]
    halfway = (risks[1:] + risks[:-1]) / 2
    return xr.Dataset({"time": ("level", np.interp(-halfway, -flow.risk, flow.time))})


headline = partial(STUDY.claim, headline=True)
merged = flow.given(rank=0, heads="merged_heads", until=0.01)
merged_stairs, shorter = stairs.given(flow=merged), stairs.given(examples=1 / 3)
ranks = {rank: left.given(flow=flow.given(rank=rank)) for rank in (2, 4)}
larger = left.given(flow=flow.given(larger=True))


@headline("Abstract", within(0.01), count_all_seeds=True, must_fail_on={"stairs": stairs})
def one_drop(lab, stairs=merged_stairs):
    """With keys and queries merged, the loss has one abrupt drop, from E y² to the least risk.

    Measured: the number of drops - 1, and R / R_m - 1 on both plateaus, m = 0 and m = d.
    """
    ends = [stairs.drops - 1, *stairs.risk[[0, -1]]]
    return xr.DataArray(ends, {"of": ["drops", "first plateau", "last plateau"]})


@headline("Abstract", within(1.0), count_all_seeds=True, must_fail_on={"stairs": merged_stairs})
def a_drop_for_each_direction(lab, stairs=stairs):
    """With rank 1, the loss has d drops on average, up to one, as two may coincide by chance.

    Measured: the number of drops - d.
    """
    return stairs.drops - len(lab.settings.spectrum)


@headline("Abstract", within(0.02), must_fail_on={"stairs": shorter})
def plateau_risks(lab, stairs=stairs):
    """The plateaus between the drops are at R_m = tr Σ - Σ λ_j / (1 + (1 + tr Σ/λ_j)/n) over j ≤ m,
    with the largest eigenvalues λ_j of Σ.

    Measured: R / R_m - 1 on each plateau, where |dR/d log t| is least between two drops; a seed
    that skips R_m does not count for it.
    """
    return stairs.risk


@headline("Abstract", below(0.1), must_fail_on={"stairs": shorter})
def principal_components(lab, stairs=stairs):
    """On plateau m, the layer regresses in context on m principal components u_j: n P is P_m, the
    sum of u_j u_j^T / (λ_j (1 + 1/n) + tr Σ/n) over j ≤ m.

    Measured: ‖n P - P_m‖_F / ‖P_m‖_F on each plateau but the first.
    """
    return stairs.P[1:]


@STUDY.claim("Section 4", above(0.0), must_fail_on={"left": dict.fromkeys((2, 4), left)})
def rank_sets_plateaus(lab, left=ranks):
    """With keys and queries of rank R, the long plateaus are those at R_m for which R divides m.

    Measured: the mean log10 of the time during which the risk is nearest to R_m, over these m,
    minus that over all others except d.
    """
    stays = {rank: np.log10(np.diff([0, *each.time])) for rank, each in left.items()}
    longer = [s[::rank].mean() - np.delete(s, np.s_[::rank]).mean() for rank, s in stays.items()]
    return xr.DataArray(longer, {"rank": list(left)})


@STUDY.claim("Section 4", below(0.0), must_fail_on={"left": larger, "larger": left})
def larger_weights_leave_sooner(lab, left=left, larger=larger):
    """Larger initial weights shorten all plateaus.

    Measured: log10 of the time at which each plateau is left for weights ten times as large, over
    that for small ones; the escape equation gives -1 for long plateaus.
    """
    return np.log10(larger.time / left.time)


@headline("Appendix", below(-0.5), must_fail_on={"shares": (1e-6,)})
def in_weight_mix(lab, shares=(0.2, 0.5, 0.8)):
    """If some prompts have one fixed w with ‖w‖ = √d, and a share of them tasks of their own, the
    loss on both kinds falls by more than a half: layers learn in their weights and in context.

    Measured: R / R_0 - 1 at the end of the flow for both, with R_0 the risk of predicting 0; Σ =
    I/d, keys and queries merged. The code has shares from 0 to 1.
    """
    s, d = lab.settings, len(lab.settings.spectrum)
    own = law(s, np.eye(d) / d)
    fixed = dataclasses.replace(own, functions=tasks.FinitePool.of(np.ones((1, d))))
    options = {"heads": s.merged_heads, "structure": Sparse.initialise, "key": lab.key("weights")}
    layer = LAYER(d, init_scale=s.init_scale, **options)

    def falls(share):
        mixed = tasks.Mixture((fixed, own), np.array([1 - share, share]))
        P = flow_from(layer, mixed, [0.0, 0.02 * s.until], lab.key()).P.values[-1]
        kinds = map(theory.task_moments, (fixed, own))
        return [theory.preconditioned_risk(P, kind) / kind.null_risk - 1 for kind in kinds]

    found = [falls(share) for share in shares]
    labels = {"share": list(shares), "prompts": ["fixed", "of their own"]}
    return xr.DataArray(found, labels, tuple(labels))


@STUDY.figure(shows=[one_drop, a_drop_for_each_direction, plateau_risks, principal_components])
def staircase(lab, flow=flow, merged=merged):
    """Risk over time, a line per seed, and the risks of regression on 0, 1, … components."""
    figure = figures.Figure((figures.WIDE, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = "keys and queries of rank 1", "keys and queries merged"
    for axes, title, flows in zip(panels, titles, (flow, merged), strict=True):
        axes.semilogx(flows.time, flows.risk.T, color=plots.TRAINED, lw=1, label="gradient flow")
        for risk in predicted(lab.settings)[0]:
            axes.axhline(risk, color=plots.REFERENCE, ls="--", lw=1, label="predicted plateaus")
        axes.set(title=title, xlabel="time t of the flow", xlim=(flows.time[-1] / 1e4, None))
    panels[0].set_ylabel("risk  E(ŷ − y)²")
    return figures.legend_below(panels[0])
