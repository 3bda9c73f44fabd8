"""mesalens: build, train, solve and identify in-context learners, and check published claims.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.
"""

import os

import lazy_loader

# XLA on CPUs has as many threads as NPROC says, or one a core. A batched LAPACK call occupies one
# and waits for the others, so that two programs at once, on two cores, can wait for each other
# for ever (seen with jaxlib 0.10.2 in `ParallelBatchMap`). More threads than callers cannot.
os.environ.setdefault("NPROC", str(4 * (os.cpu_count() or 1)))

# `__init__.pyi` lists the public names. Each is imported when it is first used, so that a command
# does not wait for libraries that it does not need.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
