"""What training minimises."""

from mesalens.training.objectives.base import Loss as Loss
from mesalens.training.objectives.base import Objective as Objective
from mesalens.training.objectives.base import SampledObjective as SampledObjective
from mesalens.training.objectives.cross_entropy import CrossEntropy as CrossEntropy
from mesalens.training.objectives.population import Population as Population
from mesalens.training.objectives.squared_error import SquaredError as SquaredError
