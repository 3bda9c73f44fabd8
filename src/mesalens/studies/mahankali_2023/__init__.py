"""One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear Self-Attention, Mahankali et al., ICLR 2024.

The paper proves, for tasks with certain symmetries, that the global minimum of the population loss is one step of (preconditioned) gradient
descent. This study evaluates each theorem's formula by an independent route, certifies that nothing beats the step by a convex bound which needs
no symmetry, and trains layers, on the risk itself and on prompts, to see where they end. The part `beyond` has claims of our own.
"""

from mesalens.studies.mahankali_2023 import beyond, covariance, isotropic, nonlinear
from mesalens.studies.mahankali_2023.laboratory import BUDGETS, Laboratory
from mesalens.studies.study import Study

STUDY = Study(
    name="mahankali-2023",
    title="One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear Self-Attention",
    citation="Mahankali, Hashimoto, Ma, ICLR 2024, arXiv 2307.03576",
    parts=(isotropic.PART, covariance.PART, nonlinear.PART, beyond.PART),
    budgets=BUDGETS,
    laboratory=Laboratory,
    note="Step sizes are those of ½ Σᵢ (w·xᵢ − yᵢ)², as in the paper. Claims of the part beyond are not the paper's.",
)
