"""Where work is done: on the cores of this machine, or on a Dask cluster.

Work consists of jobs; a job names the jobs that must be done before it. `Cores` and `Cluster` run
the same jobs.
"""

from mesalens._lazy import attach

# A Dask scheduler imports this package, and does not need JAX
__getattr__, __dir__, __all__ = attach(__name__, __file__)
