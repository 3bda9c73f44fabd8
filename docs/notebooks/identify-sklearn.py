# %% [markdown]
# # Identify a scikit-learn model
#
# An estimator that is fitted on the examples of a prompt and predicts at the query is an in-context
# learner. `identify` asks a learner for predictions and answers with the algorithm that it runs, or
# says that none of those it knows fits. It sees no code and no weights. Here the answer is known,
# so one can check it.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge

import mesalens as ml

task = ml.tasks.RegressionTask(
    ml.tasks.Gaussian(4),
    ml.tasks.LinearFunctions(4),
    noise=ml.tasks.GaussianNoise(0.25),
    context_length=12,
)

# %% [markdown]
# ## What it runs
#
# The learner $f$ gets prompts of the task. Families of algorithms are fitted to its predictions,
# and then judged on other prompts. The distance of an algorithm $A$ from the learner is
#
# $$D = \frac{E\|f(C, x) - A(C, x)\|^2}{V}, \qquad V = E\|f(C, x) - E[f(C, x) \mid x]\|^2,$$
#
# in units of what the context $C$ explains of the predictions.

# %%
report = ml.identify(Ridge(alpha=0.5, fit_intercept=False), task)
report

# %% [markdown]
# The answer is a name, a parameter with its interval, and properties of the learner. The penalty is
# that of `Ridge`, although nothing but predictions was read. `print(report)` gives the same as
# text, and the numbers are attributes:

# %%
report.parameters

# %% [markdown]
# ## The spectral filter
#
# A learner that is linear in the labels and the query, sees the context through $S$ and has no
# preferred directions predicts $x_q^\top U\, g(\lambda)\, U^\top X^\top y / n$ in the eigenbasis of
# $X^\top X / n$. The function $g$ says how much it trusts each direction. It is measured, not
# fitted. For ridge regression with penalty $\alpha$ theory says
# $g(\lambda) = 1 / (\lambda + \alpha / n)$.

# %% alt="The measured filter falls from 4 to 0.5, on the curve 1 / (λ + α/n) of ridge regression."
found = report.filter
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot(found.eigenvalues, 1 / (found.eigenvalues + 0.5 / 12), color=ml.plots.REFERENCE)
    axes.plot(found.eigenvalues, found.values[0], ".", color=ml.plots.TRAINED)
    axes.set(xlabel="eigenvalue λ", ylabel="g(λ)")
    axes.legend(["1 / (λ + α/n)", "measured"])

# %% [markdown]
# ## An estimator of your own
#
# Anything with `fit` and `predict` will do. This one standardises its inputs, has an intercept, and
# is otherwise ridge regression.


# %%
class StandardisedRidge:
    def fit(self, X, y):
        self.centre, self.spread, self.mean = X.mean(0), X.std(0), y.mean()
        Z = (X - self.centre) / self.spread
        self.weights = np.linalg.solve(Z.T @ Z + 0.5 * np.eye(Z.shape[1]), Z.T @ (y - self.mean))
        return self

    def predict(self, X):
        return (X - self.centre) / self.spread @ self.weights + self.mean


standardised = ml.identify(StandardisedRidge(), task)
print(standardised)

# %% [markdown]
# ## Regimes
#
# An algorithm is a function, so it has to agree on other prompts than those of the task as well:
# scaled inputs, shorter and longer contexts, an outlying label. These regimes are fixed beforehand.
#
# On the task itself this estimator is near to ridge regression with an intercept, because inputs
# have variance 1 there. Where inputs are halved, ridge regression shrinks more, and the estimator
# does not. In short contexts the estimated scale varies more. The distances show it:

# %%
distances = standardised.dataset.distance.sel(candidate=list(standardised.names))
distances.to_pandas().T.map("{:.1%}".format)

# %% [markdown]
# ## The page
#
# `plot` draws everything in one figure: the distance of each candidate in each regime, the filter
# or the influence of each position, and the properties. `save` writes it to a folder, with a page
# and all numbers. On the command line, `mesalens identify` does the same.

# %% wide=true alt="A heat map of distances: no candidate is below the 1% margin in all regimes."
standardised.save("standardised")
standardised.plot()
