"""Learners made of programs that JAX cannot trace: they offer predictions alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
