"""Distributions over prompts: covariates × functions × noise × distractors × context length."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
