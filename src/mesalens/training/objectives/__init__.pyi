from .base import Loss as Loss
from .base import Objective as Objective
from .base import SampledObjective as SampledObjective
from .cross_entropy import CrossEntropy as CrossEntropy
from .population import Population as Population
from .squared_error import SquaredError as SquaredError
