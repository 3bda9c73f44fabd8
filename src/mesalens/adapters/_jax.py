"""`PromptFunction`: a function of one prompt that JAX can trace, as a learner."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners import Learner


class PromptFunction(Learner):
    """A learner from a function of one prompt, written in JAX.

    What takes learners takes such functions too; this class gives them what a `Learner` offers:
    batches, and the arrays that the function holds (if it is a pytree, such as an Equinox module)
    as arrays that can be trained.

    Args:
        function: takes a `Prompt` and returns the prediction, of shape (m,).

    Raises:
        ValueError: if it is not callable.
    """

    function: Callable[[Any], Any]

    def __check_init__(self):
        if not callable(self.function):
            raise InputError(f"function must be callable; got {self.function!r}.")

    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        return self.function(prompt)
