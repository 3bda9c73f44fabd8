"""The study of Zhang, Singh, Latham and Saxe (2025): settings, tasks, and gradient flow."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from mesalens import atlas, tasks, training
from mesalens.models import LinearTransformer, LowRank, Sparse
from mesalens.studies.mahankali_2023.study import linear_task

STUDY = atlas.Study(
    "zhang-2025",
    title="Training dynamics of in-context learning in linear attention",
    citation="Zhang, Singh, Latham and Saxe, ICML 2025, arXiv 2501.16265",
    system="One layer of linear attention, linear functions without noise, x ~ N(0, Σ), w ~ N(0, I)"
    "; gradient flow from small weights, with keys and queries merged or of rank R.",
    note="The flow is on the exact risk (in the paper: descent on 5000 prompts), from weights of "
    "the paper's form: keys read x, values read y. Σ is diagonal, because the law of small weights "
    "is about the same in every basis. Statements are those of abstract and code; formulas are "
    "derived here.",
    unchecked={
        "softmax": "That layers with softmax have such drops too: their exact risk is not known, "
        "and plateaus would last many thousand steps with large batches.",
        "lazy": "That the risk falls exponentially for very large weights: no scale is stated.",
    },
    settings={
        "seeds": (5, 10, 20, 40),
        "spectrum": (0.4, 0.3, 0.2, 0.1),
        "examples": 31,
        "heads": 5,
    }
    | {"merged_heads": 8, "init_scale": 1.6e-5, "larger": 100.0, "until": 4000.0, "steps": 3000},
    quick={},
    full={},
    paper={"until": 8000.0},
    small={"init_scale": 1e-3, "until": 600.0, "larger": 10.0, "steps": 1000, "seeds": (4, 8)},
)
LAYER = LinearTransformer.initialise


def law(s, sigma=None):
    """Prompts with w ~ N(0, I) and Σ of the settings, or another."""
    sigma = np.diag(s.spectrum) if sigma is None else sigma
    return linear_task(len(sigma), s.examples, 0.0, tasks.Gaussian(len(sigma), covariance=sigma))


def predicted(s, examples=1.0):
    """The paper's risks of all plateaus, and the entries of P that are learned one by one."""
    spectrum, n = np.array(s.spectrum), examples * s.examples
    gains = 1 / (1 + (1 + spectrum.sum() / spectrum) / n)
    risks = spectrum.sum() - np.cumsum([0, *(spectrum * gains)])
    return risks, gains / spectrum / n


def step(layer):
    """P of the step ŷ = x_q^T P Σ_i y_i x_i that a layer takes."""
    d, (A, B) = layer.dim, layer.effective()
    return {"P": -jnp.einsum("h,hij->ji", B[0, :, d, d], A[0, :, :d, :d])}


def flow_from(layer, task, times, key):
    """Risk and P over time."""
    flow = training.gradient_flow(lambda _: layer, task, times, key=key, measure=step)
    return flow.metrics.isel(seed=0, drop=True)


@STUDY.measurement
def flow(lab, rank=1, heads="heads", larger=False, until=1.0):
    """Gradient flow from small random weights; keys and queries are merged if the rank is 0."""
    s, times = lab.settings, np.geomspace(1e-5, 1, 400) * until * lab.settings.until
    kind = partial(LowRank.initialise, rank=rank) if rank else Sparse.initialise
    scale, d = s.init_scale * (s.larger if larger else 1), len(s.spectrum)
    layer = LAYER(d, heads=s[heads], structure=kind, init_scale=scale, key=lab.key("weights"))
    return flow_from(layer, law(s), times, lab.key())
