"""`PromptFunction`: a function of one prompt that JAX can trace, as a learner."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners import Learner


class PromptFunction(Learner):
    """A learner made of a function of one prompt that is written in JAX.

    Wherever a learner is expected, such a function can be given directly. This class adds what a
    [`Learner`][mesalens.learners.Learner] offers: batches, and training of the arrays that the
    function holds (if it is a pytree, such as an Equinox module).

    Attributes:
        function: Takes a `Prompt` and returns the prediction, of shape (m,).

    Raises:
        ValueError: If `function` is not callable.

    Examples:
        >>> import jax.numpy as jnp
        >>> from mesalens import Prompt, adapters
        >>> mean = adapters.PromptFunction(lambda prompt: jnp.mean(prompt.ys, axis=0))
        >>> print(mean(Prompt([[1.0], [2.0]], [[3.0], [5.0]], [1.5])))
        [4.]
    """

    function: Callable[[Any], Any]

    def __check_init__(self):
        if not callable(self.function):
            raise InputError(f"function must be callable; got {self.function!r}.")

    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        return self.function(prompt)
