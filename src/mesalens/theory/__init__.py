"""Exact results: constructions, best step sizes, risks, the optimal layer and its certificate."""

from mesalens.theory._exact_moments import exact_moments as exact_moments
from mesalens.theory._exact_moments import has_exact_moments as has_exact_moments
from mesalens.theory._layer_risk import distances as distances
from mesalens.theory._layer_risk import layer_risk as layer_risk
from mesalens.theory._layer_risk import layer_risks as layer_risks
from mesalens.theory._layer_risk import population_risk as population_risk
from mesalens.theory._simulated_moments import simulated_moments as simulated_moments
from mesalens.theory._task_moments import ConditionWarning as ConditionWarning
from mesalens.theory._task_moments import task_moments as task_moments
from mesalens.theory.bayes import bayes_risk as bayes_risk
from mesalens.theory.centred_step import centred_step_risk as centred_step_risk
from mesalens.theory.certificate import Certificate as Certificate
from mesalens.theory.certificate import lower_bound as lower_bound
from mesalens.theory.construction import (
    gradient_descent_transformer as gradient_descent_transformer,
)
from mesalens.theory.copying_construction import copying_transformer as copying_transformer
from mesalens.theory.descent import best_descent as best_descent
from mesalens.theory.logistic_construction import (
    logistic_descent_transformer as logistic_descent_transformer,
)
from mesalens.theory.many_steps import DescentSteps as DescentSteps
from mesalens.theory.many_steps import best_steps as best_steps
from mesalens.theory.moments import ContextMoments as ContextMoments
from mesalens.theory.moments import estimate as estimate
from mesalens.theory.one_step import OneStepRisk as OneStepRisk
from mesalens.theory.one_step import best_step_size as best_step_size
from mesalens.theory.one_step import one_step_risk as one_step_risk
from mesalens.theory.one_step import one_step_risk_from as one_step_risk_from
from mesalens.theory.optimum import OptimalLsa as OptimalLsa
from mesalens.theory.optimum import certify as certify
from mesalens.theory.optimum import optimal_lsa as optimal_lsa
from mesalens.theory.saddle import best_rank_one_step as best_rank_one_step
from mesalens.theory.softmax_construction import (
    softmax_descent_transformer as softmax_descent_transformer,
)
