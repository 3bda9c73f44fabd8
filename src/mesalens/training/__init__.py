"""Training of any learner with trainable arrays."""

from mesalens.training.gradient_flow import gradient_flow as gradient_flow
from mesalens.training.objective import batch_loss as batch_loss
from mesalens.training.objective import loss_of as loss_of
from mesalens.training.optimiser import clipped_adam as clipped_adam
from mesalens.training.problem import Problem as Problem
from mesalens.training.run_folder import load_run as load_run
from mesalens.training.run_folder import save_run as save_run
from mesalens.training.settings import TrainingSettings as TrainingSettings
from mesalens.training.stopping import Flat as Flat
from mesalens.training.stopping import NearOptimum as NearOptimum
from mesalens.training.stopping import NearRisk as NearRisk
from mesalens.training.stopping import StoppingRule as StoppingRule
from mesalens.training.sweep import sweep as sweep
from mesalens.training.sweep_settings import sweep_settings as sweep_settings
from mesalens.training.train import train as train
from mesalens.training.training import Training as Training
from mesalens.training.training import TrainingDivergedError as TrainingDivergedError
