"""`Prompt` and `CondensedPrompt`: what in-context learners read."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count


class _Rows(eqx.Module):
    """What both kinds of prompt hold of their context: rows with the sum of outer products S."""

    @property
    @abc.abstractmethod
    def rows(self) -> tuple[Float[Array, "*batch r d"], Float[Array, "*batch r m"]]:
        """Matrices X and Y with `S = [X Y]^T [X Y]`, all that `sees_only_sum` learners read."""

    @property
    def dim(self) -> int:
        """d, the number of entries of a covariate."""
        return self.rows[0].shape[-1]

    @property
    def outputs(self) -> int:
        """m, the number of entries of a label."""
        return self.rows[1].shape[-1]


class Prompt(_Rows):
    """A context of labelled examples and one query, `(x_1, y_1), …, (x_n, y_n), x_query`.

    The target `y_query` is not part of the prompt, so that a learner cannot see it. A batch of
    prompts has leading axes on all three arrays. A learner takes one prompt; map it over a batch
    with `jax.vmap`.

    Attributes:
        xs: The covariates of the n examples, of shape (n, d).
        ys: Their labels, of shape (n, m). A single output is a column.
        query: The covariate whose label is to be predicted, of shape (d,).

    Raises:
        ValueError: If the three shapes do not match.

    Examples:
        Two examples with two covariates and one output:

        >>> from mesalens import Prompt
        >>> prompt = Prompt(xs=[[1.0, 0.0], [0.0, 1.0]], ys=[[1.0], [2.0]], query=[1.0, 1.0])
        >>> prompt.context_length, prompt.dim, prompt.outputs
        (2, 2, 1)
    """

    xs: Float[Array, "*batch n d"] = eqx.field(converter=jnp.asarray)
    ys: Float[Array, "*batch n m"] = eqx.field(converter=jnp.asarray)
    query: Float[Array, "*batch d"] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        _require_shapes(self.xs, self.ys, self.query)

    @property
    def context_length(self) -> int:
        """n, the number of labelled examples."""
        return self.xs.shape[-2]

    @property
    def rows(self) -> tuple[Float[Array, "*batch n d"], Float[Array, "*batch n m"]]:
        return self.xs, self.ys

    def condense(self) -> "CondensedPrompt":
        """The condensed prompt with the same n, S and query. Its rows are R of `[X Y] = Q R`."""
        d = self.dim
        R = jnp.linalg.qr(jnp.concatenate([self.xs, self.ys], axis=-1), mode="r")
        return CondensedPrompt(R[..., :d], R[..., d:], self.query, self.context_length)


class CondensedPrompt(_Rows):
    """A prompt without its examples: `S = Σ_i e_i e_i^T` with `e_i = (x_i, y_i)`, n, and the query.

    S is stored as r rows with the same sum of outer products, where `r ≤ d + m` for every n. A
    learner whose class sets `sees_only_sum` uses the context only through S and n: it reads `rows`
    and `context_length`. Reading `xs` or `ys` raises an error, as there are no examples to read.

    Attributes:
        x_rows: The covariate parts of the rows, of shape (r, d).
        y_rows: The label parts of the rows, of shape (r, m).
        query: The covariate whose label is to be predicted, of shape (d,).
        context_length: The number n of examples that S sums over.

    Raises:
        ValueError: If the shapes do not match, or there are more rows than examples.
    """

    x_rows: Float[Array, "*batch r d"] = eqx.field(converter=jnp.asarray)
    y_rows: Float[Array, "*batch r m"] = eqx.field(converter=jnp.asarray)
    query: Float[Array, "*batch d"] = eqx.field(converter=jnp.asarray)
    context_length: int = eqx.field(static=True)

    def __check_init__(self):
        _require_shapes(self.x_rows, self.y_rows, self.query)
        count("context_length", self.context_length, at_least=self.x_rows.shape[-2])

    @property
    def xs(self) -> Float[Array, "*batch n d"]:
        """Raises `ValueError`: a condensed prompt has no examples."""
        raise no_examples("A function that reads xs or ys")

    ys = xs
    """Raises `ValueError`: a condensed prompt has no examples."""

    @property
    def rows(self) -> tuple[Float[Array, "*batch r d"], Float[Array, "*batch r m"]]:
        return self.x_rows, self.y_rows


AnyPrompt = Prompt | CondensedPrompt
"""A prompt with or without its examples."""


def no_examples(reader: str) -> InputError:
    """The error for code that reads single examples and is given a condensed prompt.

    Args:
        reader: What reads the examples, as the error names it.

    Returns:
        The error, to be raised.
    """
    return InputError(
        f"{reader} needs the examples, but a condensed prompt holds only S and n; use the task "
        "that is not condensed, or a learner that uses the context only through S."
    )


def _require_shapes(xs: Array, ys: Array, query: Array) -> None:
    if xs.ndim < 2 or ys.ndim < 2 or xs.shape[:-1] != ys.shape[:-1]:
        raise InputError(
            f"xs has shape {xs.shape} and ys has shape {ys.shape}; they must be (…, n, d) and "
            "(…, n, m) with the same n (for a single output pass ys[:, None])."
        )
    expected = (*xs.shape[:-2], xs.shape[-1])
    if query.shape != expected:
        raise InputError(f"query has shape {query.shape}; xs requires {expected}.")
