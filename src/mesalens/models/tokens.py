"""`Tokens`: how a prompt is laid out as the rows that a transformer reads."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.prompt import Prompt


class Tokens(eqx.Module):
    """A layout: the rows of the context, then one row for the query, all of width D = d + m.

    A layout loses nothing: `tokens.prompt(tokens(prompt), outputs=m)` is the prompt again.
    """

    def __call__(self, prompt: Prompt) -> Float[Array, "rows D"]:
        """All rows, the query's last."""
        return jnp.concatenate([self.context(prompt), self.query(prompt)[None]])

    @abc.abstractmethod
    def context(self, prompt: Prompt) -> Float[Array, "context_rows D"]:
        """The rows of the n examples."""

    def query(self, prompt: Prompt) -> Float[Array, " D"]:
        """The row of the query, `(x_q, 0)`."""
        return jnp.concatenate([prompt.query, jnp.zeros(prompt.outputs, prompt.query.dtype)])

    @abc.abstractmethod
    def rows(self, context_length: int) -> int:
        """How many rows a context of n examples and a query have."""

    @abc.abstractmethod
    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        """The prompt whose rows these are. Raises `ValueError` where there is no such prompt."""


class Joint(Tokens):
    """x and y in one token: `e_i = (x_i, y_i)`, and `e_q = (x_q, -W_0 x_q)`; n + 1 rows.

    `initial_weights` is W_0, zero where it is not given. Source: von Oswald et al. (2023), Section 2.
    """

    initial_weights: Float[Array, "m d"] | None = None

    def context(self, prompt: Prompt) -> Float[Array, "n D"]:
        return jnp.concatenate([prompt.xs, prompt.ys], axis=1)

    def query(self, prompt: Prompt) -> Float[Array, " D"]:
        if self.initial_weights is None:
            return super().query(prompt)
        if self.initial_weights.shape != (prompt.outputs, prompt.dim):
            raise InputError(
                f"W_0 has shape {self.initial_weights.shape}; this prompt needs ({prompt.outputs}, {prompt.dim})."
            )
        return jnp.concatenate([prompt.query, -self.initial_weights @ prompt.query])

    def rows(self, context_length: int) -> int:
        return context_length + 1

    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        dim = _covariates_of(rows, outputs)
        return Prompt(rows[:-1, :dim], rows[:-1, dim:], rows[-1, :dim])


class Interleaved(Tokens):
    """x and y in tokens of their own, `(x_1, 0), (0, y_1), (x_2, 0), (0, y_2), …, (x_q, 0)`; 2n + 1 rows.

    The standard construction, in which a learner has to find out first which y belongs to which x. Source: von Oswald et al. (2023),
    Section 5. (Their released code gives both kinds d entries and puts y into the last of them; here each has entries of its own,
    so that rows can be read back.)
    """

    def context(self, prompt: Prompt) -> Float[Array, "twice_n D"]:
        x_rows = jnp.pad(prompt.xs, ((0, 0), (0, prompt.outputs)))
        y_rows = jnp.pad(prompt.ys, ((0, 0), (prompt.dim, 0)))
        return jnp.stack([x_rows, y_rows], axis=1).reshape(-1, prompt.dim + prompt.outputs)

    def rows(self, context_length: int) -> int:
        return 2 * context_length + 1

    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        dim = _covariates_of(rows, outputs)
        if len(rows) % 2 == 0:
            raise InputError(
                f"there are {len(rows)} rows; an interleaved prompt has two for each example and one for the query."
            )
        return Prompt(rows[:-1:2, :dim], rows[1::2, dim:], rows[-1, :dim])


def _covariates_of(rows: Float[Array, "rows D"], outputs: int) -> int:
    """d, which is what the labels leave of the width."""
    if not 0 < count("outputs", outputs) < rows.shape[1]:
        raise InputError(
            f"rows of width {rows.shape[1]} have no room for {outputs} outputs and a covariate; give fewer."
        )
    return rows.shape[1] - outputs
