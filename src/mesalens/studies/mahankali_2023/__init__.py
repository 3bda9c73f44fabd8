"""One Step of Gradient Descent is Provably the Optimal In-Context Learner, Mahankali et al., 2024.

The paper proves, for tasks with certain symmetries, that the global minimum of the population loss
is one step of (preconditioned) gradient descent. This study evaluates each theorem's formula by an
independent route, certifies that nothing beats the step by a convex bound that needs no symmetry,
and trains layers, on the risk itself and on prompts, to see where they end.
"""

from mesalens.studies.mahankali_2023 import isotropic, covariance, nonlinear, beyond  # isort: skip
from mesalens.studies.mahankali_2023.study import STUDY

__all__ = ["STUDY", "beyond", "covariance", "isotropic", "nonlinear"]
