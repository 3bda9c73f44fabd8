"""Training of any learner with trainable arrays."""

from mesalens.training._gradient_flow import gradient_flow as gradient_flow
from mesalens.training._train import train as train
from mesalens.training.objectives import CrossEntropy as CrossEntropy
from mesalens.training.objectives import Objective as Objective
from mesalens.training.objectives import Population as Population
from mesalens.training.objectives import SampledObjective as SampledObjective
from mesalens.training.objectives import SquaredError as SquaredError
from mesalens.training.optimisers import SGD as SGD
from mesalens.training.optimisers import Adam as Adam
from mesalens.training.optimisers import Optimiser as Optimiser
from mesalens.training.optimisers import clipped_adam as clipped_adam
from mesalens.training.optimisers import schedule as schedule
from mesalens.training.problem import Problem as Problem
from mesalens.training.run_folder import load_run as load_run
from mesalens.training.run_folder import save_run as save_run
from mesalens.training.settings import TrainingSettings as TrainingSettings
from mesalens.training.stopping import Flat as Flat
from mesalens.training.stopping import NearOptimum as NearOptimum
from mesalens.training.stopping import NearRisk as NearRisk
from mesalens.training.stopping import Never as Never
from mesalens.training.stopping import StoppingRule as StoppingRule
from mesalens.training.training import Training as Training
from mesalens.training.training import TrainingDivergedError as TrainingDivergedError
