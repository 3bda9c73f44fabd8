"""Exact results: constructions of weights, best step sizes, exact risk."""

from mesalens.theory.construction import gradient_descent_transformer as gradient_descent_transformer
from mesalens.theory.one_step import OneStepRisk as OneStepRisk
from mesalens.theory.one_step import best_step_size as best_step_size
from mesalens.theory.one_step import one_step_risk as one_step_risk
