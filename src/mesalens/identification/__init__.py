"""Identification: which algorithm does a learner run? Any learner, and any task."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
