"""Algorithms that learn in context."""

from mesalens.learners.base import IterativeLearner as IterativeLearner
from mesalens.learners.base import Learner as Learner
from mesalens.learners.bayes import BayesianRegression as BayesianRegression
from mesalens.learners.gradient_descent import GradientDescent as GradientDescent
from mesalens.learners.least_squares import LeastSquares as LeastSquares
from mesalens.learners.ridge import Ridge as Ridge
