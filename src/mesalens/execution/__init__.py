"""Where work is done: the cores of this machine, or a Dask cluster.

Work is given as jobs; a job says what has to be done before it. Both do the same jobs.
"""

import lazy_loader

# A scheduler of Dask imports this room, and does not need JAX
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
