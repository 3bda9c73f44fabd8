"""mesalens: build, train, solve and identify in-context learners, and check published claims.

An in-context learner is a function from a prompt to a prediction: `prediction = learner(prompt)`.
"""

import os

from mesalens._lazy import attach

# On CPUs, XLA has NPROC threads, by default one per core. A batched LAPACK call occupies one thread
# and waits for others, so two programs on two cores can deadlock (seen with jaxlib 0.10.2 in
# `ParallelBatchMap`). With more threads than callers they cannot.
os.environ.setdefault("NPROC", str(4 * (os.cpu_count() or 1)))

# `__init__.pyi` lists the public names. Each is imported when it is first used, so that a command
# does not wait for libraries that it does not need.
__getattr__, __dir__, __all__ = attach(__name__, __file__)
__version__ = "0.2.0"
