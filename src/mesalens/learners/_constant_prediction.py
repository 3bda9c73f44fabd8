"""A prediction that does not depend on the prompt."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import Learner, floats
from mesalens.learners.descent import require_shape
from mesalens.prompt import AnyPrompt


class ConstantPrediction(Learner):
    """The same prediction for every prompt: `ŷ = value`.

    Its risk is `E‖y_query - value‖²`, which is smallest at `value = E[y_query]`. For 0 it is the
    null risk `E‖y_query‖²`, which a learner that uses its context should beat.

    Attributes:
        value: Of shape (m,), or one number for all outputs. Training changes it.

    Raises:
        ValueError: If the value has another shape or is not finite.
    """

    sees_only_sum = True

    value: Float[Array, ""] | Float[Array, " m"] = eqx.field(converter=floats)

    def __check_init__(self):
        if self.value.ndim > 1:
            raise InputError(f"value must have shape () or (m,); got {self.value.shape}.")
        require_shape("value", self.value, self.value.shape)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        require_shape("value", self.value, (), (prompt.outputs,))
        return jnp.broadcast_to(self.value, (prompt.outputs,))
