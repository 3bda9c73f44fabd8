"""Set-up of the tests."""

import os

# Most of the tests' time is XLA compiling small programs once; its optimisations cost more there than they give
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
