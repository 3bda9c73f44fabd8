"""Risk over depth of gradient descent, GD++, Chebyshev's descent and Newton's iteration.

For five inputs and twenty examples without noise. The rates are those that the interval [l, u] of
the eigenvalues of all contexts gives: GD++ has η = (9/4)ᵏ/u in step k and γ = η/3.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

xs, depths = np.random.default_rng(0).normal(size=(2000, 20, 5)), range(1, 9)
s = np.linalg.eigvalsh(xs.mT @ xs / 20)


def algorithms(k):
    rates, descent = 2.25 ** np.arange(k) / s.max(), ml.GradientDescent
    yield from (descent(2 / (s.min() + s.max()), k), descent(rates, k, data_correction=rates / 3))
    yield from (ml.learners.ChebyshevDescent(k, s.min(), s.max()), ml.learners.NewtonSchulz(k))


left = [[1 - s * each.spectral_filter(s, 20) for each in algorithms(k)] for k in depths]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.semilogy(depths, np.square(left).sum(axis=-1).mean(axis=-1), "o-")
    axes.set(xlabel="steps", ylabel="risk", ylim=(1e-6, 5), title="Risk over depth")
    axes.legend(["gradient descent", "GD++", "Chebyshev", "Newton"])
