"""Identification: which algorithm does a learner run?

`identify` fits families of algorithms to the predictions of any learner, and names the one that
agrees with it in every regime.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
