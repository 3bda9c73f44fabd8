"""The mean label of the examples nearest to the query."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mesalens.learners._counts import require_count
from mesalens.learners._distances import squared_distances
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class KNearestNeighbours(Learner):
    """The mean label of the k examples whose inputs are nearest to the query.

    Distances are Euclidean; of examples at the same distance the earlier one is nearer. With k = n
    it is [`MeanLabel`][mesalens.learners.MeanLabel]. The prediction is constant between the places
    where neighbours change, so that its derivatives in the inputs are 0 wherever they exist.

    Attributes:
        neighbours: k, from 1 to n. If JAX is tracing it, its range is not checked: all n examples
            are used if k is larger, and the nearest one if it is below 1.

    Raises:
        ValueError: If the number of neighbours is not from 1 to n.

    Source: Fix and Hodges (1951); Cover and Hart (1967).
    """

    neighbours: int | Int[Array, ""]

    def __check_init__(self):
        require_count("neighbours", self.neighbours)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        n = prompt.context_length
        require_count("neighbours", self.neighbours, at_most=n)
        k = jnp.clip(self.neighbours, 1, n)
        order = jnp.argsort(squared_distances(prompt.query, prompt.xs), stable=True)
        nearest = jnp.where(jnp.arange(n)[:, None] < k, prompt.ys[order], 0)
        return jnp.sum(nearest, axis=0) / k
