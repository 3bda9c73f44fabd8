from .base import StoppingRule as StoppingRule
from .flat import Flat as Flat
from .near_optimum import NearOptimum as NearOptimum
from .near_risk import NearRisk as NearRisk
from .never import Never as Never
