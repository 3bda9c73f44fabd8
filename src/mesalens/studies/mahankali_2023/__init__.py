"""One Step of Gradient Descent is Provably the Optimal In-Context Learner, Mahankali et al., 2024.

The paper proves, for tasks with certain symmetries, that the global minimum of the population loss
is one step of (preconditioned) gradient descent. This study checks the formulas by an independent
route, and optimality by a convex bound that needs no symmetry, and trains layers.
"""

from mesalens.studies.mahankali_2023 import isotropic, covariance, nonlinear, beyond  # isort: skip
from mesalens.studies.mahankali_2023.study import STUDY

__all__ = ["STUDY", "beyond", "covariance", "isotropic", "nonlinear"]
