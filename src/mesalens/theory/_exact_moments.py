"""The moments of a task, exactly."""

from mesalens.tasks import LinearFunctions, Mixture, RegressionTask, Task
from mesalens.theory._linear_moments import linear_moments
from mesalens.theory._mixture_moments import mixture_moments
from mesalens.theory._requirements import regression
from mesalens.theory._shared_moments import has_shared_moments, shared_moments
from mesalens.theory.moments import ContextMoments


def has_exact_moments(task: Task) -> bool:
    """Whether [`exact_moments`][mesalens.theory.exact_moments] supports a task.

    It does if functions are linear, covariates and noise define their moments, and the noise is
    symmetric; and in some cases with a pool of functions or correlated inputs. It supports a
    mixture if it supports all components.

    Args:
        task: The task.

    Returns:
        Whether the moments can be computed exactly.
    """
    if isinstance(task, Mixture):
        return all(map(has_exact_moments, task.components))
    if not isinstance(task, RegressionTask):
        return False
    return has_shared_moments(task) or (
        isinstance(task.functions, LinearFunctions)
        and task.covariates.independent
        and task.covariates.knows_moments
        and task.noise.knows_moments
        and task.noise.symmetric
    )


def exact_moments(task: Task) -> ContextMoments:
    """The exact moments of a task.

    They are computed by `linear_moments`, `shared_moments` or `mixture_moments`.

    Args:
        task: The task.

    Returns:
        The moments, in float64.

    Raises:
        ValueError: If they are not known, infinite, or too large for memory.
    """
    if isinstance(task, Mixture):
        return mixture_moments(list(map(exact_moments, task.components)), task.probabilities)
    if has_shared_moments(regression(task)):
        return shared_moments(regression(task))
    return linear_moments(regression(task))
