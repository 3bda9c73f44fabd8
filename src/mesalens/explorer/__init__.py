"""The explorer: a page that computes optima, gradient flow and spectral filters by itself."""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
