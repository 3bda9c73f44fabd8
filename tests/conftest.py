"""Set-up of the tests."""

import gc
import os

# Most of the tests' time is XLA compiling small programs once. Its optimisations cost more there
# than they give; of its two code generators the older one compiles twice as fast (what it makes is
# slower); and a program in parts, compiled side by side, only pays where cores are idle
FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # every core has a worker
os.environ.pop("COLUMNS", None)  # pytest-xdist states 80; without it and a terminal there are 160
os.environ.setdefault("MESALENS_PROGRAMS", "off")  # nothing of the tests stays in the user's cache
gc.set_threshold(
    200_000, 50, 100
)  # tracing makes many small objects, and collecting them takes a tenth of the time
