"""`Prompt`: what every in-context learner reads."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count


class Prompt(eqx.Module):
    """A context of labelled examples and one query, `(x_1, y_1), …, (x_n, y_n), x_query`.

    The target, `y_query`, travels beside the prompt and never in it: a learner cannot see it.

    `xs` are the n covariates of the context, `ys` their labels (a vector of m outputs each; m = 1 is a column), `query`
    is the covariate whose label is asked for. A batch of prompts has leading axes on all three; learners take one
    prompt, so map them over a batch with `jax.vmap`.

    A *condensed* prompt has `examples`, the n that its rows stand for: rows fewer than n with the same `S = Σ_i e_i e_i^T`,
    `e_i = (x_i, y_i)`. A learner may read one if it sees the context through S and n alone and takes n from `context_length`:
    linear transformers, gradient descent, ridge regression, least squares, the Bayes predictor of linear functions. A learner that
    sees single examples, as softmax attention, kernel regression and logistic descent do, must not: the rows are no examples.

    Raises `ValueError` where the three do not belong together, or there are more rows than examples.
    """

    xs: Float[Array, "*batch n d"] = eqx.field(converter=jnp.asarray)
    ys: Float[Array, "*batch n m"] = eqx.field(converter=jnp.asarray)
    query: Float[Array, "*batch d"] = eqx.field(converter=jnp.asarray)
    examples: int | None = eqx.field(static=True, default=None, kw_only=True)

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
        if self.examples is not None:
            count("the number of examples that the rows stand for", self.examples, at_least=self.xs.shape[-2])

    @property
    def context_length(self) -> int:
        """n, the number of labelled examples; of a condensed prompt, those that its rows stand for."""
        return self.xs.shape[-2] if self.examples is None else self.examples

    @property
    def condensed(self) -> bool:
        """Whether the rows only have the S of the examples, and are not the examples themselves."""
        return self.examples is not None

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.xs.shape[-1]

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.ys.shape[-1]

    def condense(self) -> "Prompt":
        """The prompt with at most d + m rows and the same n and S: those of R in `[X Y] = Q R`, since `S = R^T R`.

        A prompt with no more rows than that comes back as it is.
        """
        if self.xs.shape[-2] <= self.dim + self.outputs:
            return self
        rows = jnp.linalg.qr(jnp.concatenate([self.xs, self.ys], axis=-1), mode="r")
        return Prompt(rows[..., : self.dim], rows[..., self.dim :], self.query, examples=self.context_length)
