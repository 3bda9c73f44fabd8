"""Optimisers, as settings that make a `optax.GradientTransformation`."""

from mesalens.training.optimisers.adam import Adam as Adam
from mesalens.training.optimisers.adam import clipped_adam as clipped_adam
from mesalens.training.optimisers.base import Optimiser as Optimiser
from mesalens.training.optimisers.base import schedule as schedule
from mesalens.training.optimisers.sgd import SGD as SGD
