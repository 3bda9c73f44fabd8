"""What exact results need of a task."""

from mesalens.checks import InputError
from mesalens.tasks import LinearFunctions, RegressionTask, Task


def regression(task: Task) -> RegressionTask:
    """The task, which must be a `RegressionTask`."""
    if not isinstance(task, RegressionTask):
        raise InputError(
            "task must be a RegressionTask, whose query and context are independent given f; got "
            f"{type(task).__name__}."
        )
    return task


def linear_regression(
    task: Task, *, distractors: bool = True
) -> tuple[RegressionTask, LinearFunctions]:
    """The task and its functions, which must be linear.

    Raises:
        ValueError: if the task is of another kind, the functions are not linear, or there are
            distractors that are not allowed.
    """
    task = regression(task)
    if not isinstance(task.functions, LinearFunctions):
        raise InputError(
            "functions must be LinearFunctions for an exact result; got "
            f"{type(task.functions).__name__}: simulate it instead."
        )
    if not distractors and int(task.distractors.count):
        raise InputError("distractors must be 0 for this exact result; simulate it instead.")
    return task, task.functions
