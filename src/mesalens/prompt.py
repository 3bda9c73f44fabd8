"""`Prompt` and `CondensedPrompt`: what in-context learners read."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.display import InNotebook, Summary, fields


class _Rows(eqx.Module, InNotebook):
    """What both kinds of prompt hold of their context: rows with the sum of outer products S."""

    @property
    @abc.abstractmethod
    def rows(self) -> tuple[Float[Array, "*batch r d"], Float[Array, "*batch r m"]]:
        """X and Y with `S = [X Y]^T [X Y]`, all that a learner with `sees_only_sum` may read."""

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

    The target `y_query` is kept beside the prompt, never in it: a learner cannot see it.

    `xs` are the n covariates of the context and `ys` their labels, vectors of m outputs (a single
    output is a column). `query` is the covariate whose label is asked for. A batch of prompts has
    leading axes on all three. Learners take one prompt; map them over a batch with `jax.vmap`.

    Raises:
        ValueError: if the three shapes do not fit each other.
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

    def _summary(self) -> Summary:
        return _sizes(self)

    def condense(self) -> "CondensedPrompt":
        """The condensed prompt with the same n, S and query; its rows are R of `[X Y] = Q R`."""
        d = self.dim
        R = jnp.linalg.qr(jnp.concatenate([self.xs, self.ys], axis=-1), mode="r")
        return CondensedPrompt(R[..., :d], R[..., d:], self.query, self.context_length)


class CondensedPrompt(_Rows):
    """A prompt without its examples: `S = Σ_i e_i e_i^T` with `e_i = (x_i, y_i)`, n, and the query.

    S is stored by rows with the same sum of outer products, at most d + m of them however large n
    is. A learner that sees the context through S and n alone (its class sets `sees_only_sum`) reads
    `rows` and `context_length`. Reading `xs` or `ys` raises: there are no examples to read.

    Raises:
        ValueError: if the shapes do not fit each other, or there are more rows than examples.
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

    @property
    def rows(self) -> tuple[Float[Array, "*batch r d"], Float[Array, "*batch r m"]]:
        return self.x_rows, self.y_rows

    def _summary(self) -> Summary:
        return _sizes(self)


AnyPrompt = Prompt | CondensedPrompt


def _sizes(prompt: AnyPrompt) -> Summary:
    batch = prompt.query.shape[:-1]
    words = f"d = {prompt.dim}, m = {prompt.outputs}, n = {prompt.context_length}"
    return Summary(words + f", a batch of shape {batch}" * bool(batch), fields(prompt))


def no_examples(reader: str) -> InputError:
    """The error of a reader of single examples that meets a condensed prompt."""
    return InputError(
        f"{reader} needs the examples, and a condensed prompt holds only S and n; use the task "
        "that is not condensed, or a learner that sees the context through S alone."
    )


def _require_shapes(xs: Array, ys: Array, query: Array) -> None:
    if xs.ndim < 2 or ys.ndim < 2 or xs.shape[:-1] != ys.shape[:-1]:
        raise InputError(
            f"xs has shape {xs.shape} and ys {ys.shape}; give (…, n, d) and (…, n, m) with the "
            "same n (a single output is a column, ys[:, None])."
        )
    expected = (*xs.shape[:-2], xs.shape[-1])
    if query.shape != expected:
        raise InputError(f"query has shape {query.shape}; give {expected}, as xs asks.")
