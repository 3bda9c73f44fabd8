"""`compiled_expectation`: a simulation as one compiled program."""

import equinox as eqx

from mesalens.simulation import expectation

compiled_expectation = eqx.filter_jit(expectation)
"""`expectation`, compiled once for each kind of statistic.

Statistics have their learners as arguments of an `equinox.Partial`. A new function in each call
would be compiled in each call.
"""
