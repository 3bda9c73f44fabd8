"""Training: any learner with trainable arrays, many seeds and settings at once.

`train` is the main function. A training is described by an objective, an optimiser and a stopping
rule, or as a whole by `TrainingSettings`, which can be saved; its result is a `Training`.
"""

from mesalens._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
