"""Identification: which algorithm does a learner run?

`identify` fits families of algorithms to the predictions of any learner, and names the one that
agrees with it in every regime.
"""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
