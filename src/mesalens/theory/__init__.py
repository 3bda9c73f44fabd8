"""Exact results: constructions, best step sizes, risks, the optimal layer, its certificate."""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
