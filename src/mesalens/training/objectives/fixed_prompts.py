"""The squared error on a fixed set of prompts."""

from typing import ClassVar

from mesalens.training.objectives.squared_error import SquaredError


class FixedPrompts(SquaredError):  # noqa: N818 (no exception)
    """The squared error on a fixed set of prompts: full-batch gradient descent.

    The mean of `‖ŷ - y_query‖²` over T prompts, where T is the batch size. Each run draws its set
    once; every step draws the same prompts again from the same key, which takes time but no memory.
    Microbatches are parts of the set. (For one pass over T prompts, each seen once, use the
    objective "sampled" with T / batch_size steps.)
    """

    fixed_prompts: ClassVar[bool] = True
