"""Measurements of learners on tasks: risks, comparisons, what a model has learned."""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
