from ._any import as_learner as as_learner
from ._jax import PromptFunction as PromptFunction
from ._numpy import NumpyLearner as NumpyLearner
from ._sklearn import from_sklearn as from_sklearn
from ._torch import from_torch as from_torch
