"""When a run has converged."""

from mesalens.training.stopping.base import StoppingRule as StoppingRule
from mesalens.training.stopping.flat import Flat as Flat
from mesalens.training.stopping.near_optimum import NearOptimum as NearOptimum
from mesalens.training.stopping.near_risk import NearRisk as NearRisk
from mesalens.training.stopping.never import Never as Never
