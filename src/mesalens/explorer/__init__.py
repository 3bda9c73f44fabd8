"""The explorer: a page that computes optima, gradient flow and spectral filters by itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
