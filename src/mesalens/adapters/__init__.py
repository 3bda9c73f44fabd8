"""Learners made of programs that JAX cannot trace: they offer predictions alone."""

from mesalens.adapters._numpy import NumpyLearner as NumpyLearner
