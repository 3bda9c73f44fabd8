"""Learners made of scikit-learn estimators, PyTorch modules and functions."""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
