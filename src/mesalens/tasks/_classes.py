"""`require_classes`: that the targets of a task are classes."""

import jax
import jax.core
import numpy as np

from mesalens import random
from mesalens.checks import InputError
from mesalens.tasks.base import Task


def require_classes(task: Task) -> None:
    """Checks that the targets of a task are distributions over classes, on two draws.

    Args:
        task: The task.

    Raises:
        ValueError: If targets are not distributions over two classes or more.
    """
    # Within a training's measure everything is traced but the task, whose targets are numbers here
    with jax.ensure_compile_time_eval():
        _, targets = task.sample(random.key(0), (2,))
    name = type(task).__name__
    if targets.shape[-1] < 2:
        raise InputError(f"targets must have two classes or more; {name} has {targets.shape[-1]}.")
    if isinstance(targets, jax.core.Tracer):
        return
    targets = np.asarray(targets)
    if not np.allclose(targets.sum(axis=-1), 1, atol=1e-4) or targets.min() < 0:
        raise InputError(
            f"targets must be distributions over classes, such as one-hot labels; those of {name} "
            "are not: use a ClassificationTask."
        )
