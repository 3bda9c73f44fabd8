"""The squared error on a fixed set of prompts."""

from typing import ClassVar

from mesalens.training.objectives.squared_error import SquaredError


class Dataset(SquaredError):  # noqa: N818 (no exception)
    """The mean of `‖ŷ - y_query‖²` over T prompts that a run draws once: descent on all of them.

    T is the batch size. Every step draws the same prompts from the same key, which takes time but
    no memory; microbatches are parts of the set. (One pass over T prompts, of which none is seen
    twice, is the objective "sampled" with T / batch_size steps.)
    """

    fixed_prompts: ClassVar[bool] = True
