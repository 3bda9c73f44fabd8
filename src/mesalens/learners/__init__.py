"""Algorithms that learn in context."""

from mesalens.learners.base import IterativeLearner as IterativeLearner
from mesalens.learners.base import Learner as Learner
from mesalens.learners.bayes import BayesianRegression as BayesianRegression
from mesalens.learners.chebyshev_descent import ChebyshevDescent as ChebyshevDescent
from mesalens.learners.conjugate_gradient import ConjugateGradient as ConjugateGradient
from mesalens.learners.gradient_descent import GradientDescent as GradientDescent
from mesalens.learners.least_squares import LeastSquares as LeastSquares
from mesalens.learners.logistic_descent import LogisticDescent as LogisticDescent
from mesalens.learners.nadaraya_watson import NadarayaWatson as NadarayaWatson
from mesalens.learners.newton_schulz import NewtonSchulz as NewtonSchulz
from mesalens.learners.ridge import Ridge as Ridge
