"""Too many prompts can be too few: the risk of a fitted layer over the number of prompts.

Exact limits for large d of a layer that ridge regression fits to τ d² prompts with d examples each
and d/2 tasks. Without a ridge the risk on new tasks has a peak where prompts are as many as
unknowns.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

prompts = np.geomspace(0.1, 10, 200)
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for ridge, color in zip((0.0, 0.01, 0.1), ("#d55e00", "#e69f00", "#0072b2"), strict=True):
        risks = [ml.theory.asymptotic_risk(1.0, 0.5, t, 0.1, ridge).new_tasks for t in prompts]
        axes.semilogx(prompts, risks, color=color, label=f"ridge {ridge:g}")
    axes.set(ylim=(0, 5), xlabel="prompts per unknown τ", ylabel="risk on new tasks")
    axes.set_title("Double descent over prompts")
    axes.legend()
