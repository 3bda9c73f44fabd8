"""`Prompt`: what every in-context learner reads."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError


class Prompt(eqx.Module):
    """A context of labelled examples and one query, `(x_1, y_1), …, (x_n, y_n), x_query`.

    The target, `y_query`, travels beside the prompt and never in it: a learner cannot see it.

    `xs` are the n covariates of the context, `ys` their labels (a vector of m outputs each; m = 1 is a column), `query`
    is the covariate whose label is asked for. A batch of prompts has leading axes on all three; learners take one
    prompt, so map them over a batch with `jax.vmap`.

    Raises `ValueError` where the three do not belong together.
    """

    xs: Float[Array, "*batch n d"] = eqx.field(converter=jnp.asarray)
    ys: Float[Array, "*batch n m"] = eqx.field(converter=jnp.asarray)
    query: Float[Array, "*batch d"] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if self.xs.ndim < 2 or self.ys.ndim < 2 or self.xs.shape[:-1] != self.ys.shape[:-1]:
            raise InputError(
                f"xs has shape {self.xs.shape} and ys {self.ys.shape}; give (…, n, d) and (…, n, m) with the same n "
                "(labels with a single output are a column, ys[:, None])."
            )
        if self.query.shape != (*self.xs.shape[:-2], self.xs.shape[-1]):
            raise InputError(
                f"query has shape {self.query.shape}; the covariates in xs have {self.xs.shape[-1]} entries."
            )

    @property
    def context_length(self) -> int:
        """n, the number of labelled examples."""
        return self.xs.shape[-2]

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.xs.shape[-1]

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.ys.shape[-1]
