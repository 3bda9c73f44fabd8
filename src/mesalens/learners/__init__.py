"""Algorithms that learn in context."""

from mesalens.learners._bayes import BayesianRegression as BayesianRegression
from mesalens.learners._chebyshev_descent import ChebyshevDescent as ChebyshevDescent
from mesalens.learners._conjugate_gradient import ConjugateGradient as ConjugateGradient
from mesalens.learners._gradient_descent import GradientDescent as GradientDescent
from mesalens.learners._least_squares import LeastSquares as LeastSquares
from mesalens.learners._logistic_descent import LogisticDescent as LogisticDescent
from mesalens.learners._nadaraya_watson import NadarayaWatson as NadarayaWatson
from mesalens.learners._newton_schulz import NewtonSchulz as NewtonSchulz
from mesalens.learners._ridge import Ridge as Ridge
from mesalens.learners.base import AnyLearner as AnyLearner
from mesalens.learners.base import IterativeLearner as IterativeLearner
from mesalens.learners.base import Learner as Learner
