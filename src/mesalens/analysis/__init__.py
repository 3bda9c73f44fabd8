"""Measurements of learners on tasks: risks, comparisons, what a model has learned."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
