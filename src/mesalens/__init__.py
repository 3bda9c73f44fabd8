"""mesalens: build, train, solve and identify in-context learners, and check what is published about them.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.
"""

from mesalens import analysis as analysis
from mesalens import learners as learners
from mesalens import models as models
from mesalens import plots as plots
from mesalens import random as random
from mesalens import studies as studies
from mesalens import tasks as tasks
from mesalens import theory as theory
from mesalens import training as training
from mesalens.checks import InputError as InputError
from mesalens.learners import GradientDescent as GradientDescent
from mesalens.learners import Learner as Learner
from mesalens.learners import LeastSquares as LeastSquares
from mesalens.learners import Ridge as Ridge
from mesalens.models import LinearTransformer as LinearTransformer
from mesalens.prompt import Prompt as Prompt
from mesalens.training import train as train

__version__ = "0.1.0"
