"""What exact results need of a task."""

from mesalens.checks import InputError
from mesalens.tasks import LinearFunctions, RegressionTask, Task


def regression(task: Task) -> RegressionTask:
    """The task, which must be a `RegressionTask`."""
    if not isinstance(task, RegressionTask):
        raise InputError(
            f"task must be a RegressionTask for this result; got {type(task).__name__}."
        )
    return task


def independent(task: Task) -> RegressionTask:
    """The task, whose inputs must be independent."""
    task = regression(task)
    if not task.covariates.independent:
        raise InputError(
            f"covariates must be independent for this result; got {type(task.covariates).__name__}."
            " task_moments supports them for linear functions or a pool, Gaussian noise that does "
            "not depend on x, no distractors, and d + m up to 17."
        )
    return task


def linear_regression(
    task: Task, instead: str, *, distractors: bool = True
) -> tuple[RegressionTask, LinearFunctions]:
    """The task and its functions, which must be linear.

    Args:
        task: The task.
        instead: What to do for other tasks.
        distractors: Whether there may be distractors.

    Raises:
        ValueError: if the task is of another kind, the functions are not linear, inputs are not
            independent, or there are distractors that are not allowed.
    """
    task = independent(task)
    if not isinstance(task.functions, LinearFunctions):
        raise InputError(
            "functions must be LinearFunctions for an exact result; got "
            f"{type(task.functions).__name__}; {instead}."
        )
    if not distractors and int(task.distractors.count):
        raise InputError(f"distractors must be 0 for this exact result; {instead}.")
    return task, task.functions
