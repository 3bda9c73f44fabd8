# %% [markdown]
# # One paper's claims
#
# A *study* declares what a paper claims, what has to be trained to check it, and what would confirm
# or refute each claim. This notebook checks a theorem of Mahankali, Hashimoto and Ma (ICLR 2024,
# [arXiv 2307.03576](https://arxiv.org/abs/2307.03576)): for $x \sim N(0, I)$, $w \sim N(0, I)$ and
# noise of variance $\sigma^2$, the best layer of linear self-attention is one step of gradient
# descent with step size $1 / (n + d + 1 + \sigma^2)$.

# %%
from IPython.display import Image

import mesalens as ml

study = ml.studies.study("mahankali-2023")
print(study.title)
for part in study.parts:
    print(f"{part.name}: {part.title}, {len(part.claims)} claims")

# %% [markdown]
# ## What a claim is
#
# A claim has a statement, an estimator that gives one number for each seed, and a criterion with a
# margin. It also says with which arguments it is false (`must_fail_on`): a claim that cannot fail
# is not a check.

# %%
study.parts[0].claims[0]

# %% [markdown]
# ## Run it
#
# A `Session` has a folder in which results are kept, so that nothing is computed twice. The budget
# `quick` checks the headline of the paper; here training is shortened as well.

# %%
session = ml.Session("results")
report = session.reproduce("mahankali-2023/isotropic", settings={"population_steps": 1000})
report

# %% [markdown]
# A verdict is PASS if the interval of the mean over seeds lies inside the margin, FAIL if it lies
# outside, and INCONCLUSIVE otherwise. For a claim about every seed one counterexample is enough.

# %%
report["certificate"]

# %% [markdown]
# ## Evidence
#
# The numbers behind a verdict are a labelled table: a value for each seed, and whether it counted.

# %%
evidence = report.studies[0].tables["step-size"]
evidence.value.to_pandas().round(4)

# %% [markdown]
# The saved report has a page with all verdicts, the evidence and the figures. One of them shows
# training on the exact risk, which ends at the bound to rounding, and training on prompts, which
# keeps the noise of stochastic gradients.

# %% alt="Four layers trained on the exact risk come to the bound to 1e-15; on prompts to 1e-3."
report.save("report")
Image("report/figures/mahankali-2023/training.png", width=500)

# %% [markdown]
# ## Where the claim is false
#
# With `falsify=True` claims are carried out where they are false: here with a step that is 1.2
# times too long. Both fail, as they should.

# %%
false = session.reproduce("mahankali-2023/step-size", "mahankali-2023/certificate", falsify=True)
for verdict in false.verdicts:
    print(f"{verdict.claim.name}: {verdict.judgement.outcome}. {verdict.judgement.why}")
