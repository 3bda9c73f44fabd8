"""`Tokens`: how a prompt is laid out as the rows that a transformer reads."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.prompt import AnyPrompt, CondensedPrompt, Prompt, no_examples


class Tokens(eqx.Module):
    """A layout of a prompt as rows of width D = d + m, those of the context and then the query's.

    A layout loses nothing: `tokens.prompt(tokens(prompt), outputs=m)` is the prompt again.
    """

    def __call__(self, prompt: Prompt) -> Float[Array, "rows D"]:
        """All rows, the query's last.

        Args:
            prompt: One prompt.

        Raises:
            ValueError: If the prompt is condensed.
        """
        if isinstance(prompt, CondensedPrompt):  # whose rows are not examples
            raise no_examples(type(self).__name__)
        return jnp.concatenate([self.context(prompt), self.query(prompt)[None]])

    @abc.abstractmethod
    def context(self, prompt: Prompt) -> Float[Array, "context_rows D"]:
        """The rows of the n examples.

        Args:
            prompt: One prompt.
        """

    def query(self, prompt: AnyPrompt) -> Float[Array, " D"]:
        """The row of the query, `(x_q, 0)`.

        Args:
            prompt: One prompt.
        """
        return jnp.concatenate([prompt.query, jnp.zeros(prompt.outputs, prompt.query.dtype)])

    @abc.abstractmethod
    def rows(self, context_length: int) -> int:
        """The number of rows of a context of n examples and a query.

        Args:
            context_length: n, the number of examples in a prompt.
        """

    @abc.abstractmethod
    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        """The prompt that has the given rows.

        Args:
            rows: Token rows, of shape (rows, d + m).
            outputs: m, the number of entries of a label.

        Raises:
            ValueError: If the rows are not those of a prompt.
        """


class Joint(Tokens):
    """x and y in one token, `e_i = (x_i, y_i)` and `e_q = (x_q, -W_0 x_q)`: n + 1 rows.

    Attributes:
        initial_weights: W_0, of shape (m, d). Zero by default.

    Source: von Oswald et al. (2023), Section 2.

    Examples:
        >>> from mesalens import Prompt, models
        >>> print(models.Joint()(Prompt([[1.0], [2.0]], [[3.0], [5.0]], [1.5])))
        [[1.  3. ]
         [2.  5. ]
         [1.5 0. ]]
    """

    initial_weights: Float[Array, "m d"] | None = None

    def context(self, prompt: AnyPrompt) -> Float[Array, "n D"]:
        return jnp.concatenate(prompt.rows, axis=1)

    def query(self, prompt: AnyPrompt) -> Float[Array, " D"]:
        start = self.start(prompt.dim, prompt.outputs)
        if start is None:
            return super().query(prompt)
        return jnp.concatenate([prompt.query, -start @ prompt.query])

    def start(self, dim: int, outputs: int) -> Float[Array, "m d"] | None:
        """W_0 as an array, or None.

        Args:
            dim: d, the number of entries of a covariate.
            outputs: m, the number of entries of a label.

        Raises:
            ValueError: If W_0 is not m × d.
        """
        if self.initial_weights is None:
            return None
        start = jnp.asarray(self.initial_weights, float)
        shape = (outputs, dim)
        if start.shape != shape:
            raise InputError(f"initial_weights must have shape {shape}; got {start.shape}.")
        return start

    def rows(self, context_length: int) -> int:
        return context_length + 1

    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        dim = _covariate_entries(rows, outputs)
        return Prompt(rows[:-1, :dim], rows[:-1, dim:], rows[-1, :dim])


class Interleaved(Tokens):
    """x and y in separate tokens, `(x_1, 0), (0, y_1), …, (x_q, 0)`: 2n + 1 rows.

    A learner first has to find out which y belongs to which x.

    Source: von Oswald et al. (2023), Section 5. (Their released code gives both kinds d entries and
    puts y into the last of them. Here x and y have separate entries, so that rows can be read
    back.)

    Examples:
        >>> from mesalens import Prompt, models
        >>> print(models.Interleaved()(Prompt([[1.0], [2.0]], [[3.0], [5.0]], [1.5])))
        [[1.  0. ]
         [0.  3. ]
         [2.  0. ]
         [0.  5. ]
         [1.5 0. ]]
    """

    def context(self, prompt: Prompt) -> Float[Array, "twice_n D"]:
        x_rows = jnp.pad(prompt.xs, ((0, 0), (0, prompt.outputs)))
        y_rows = jnp.pad(prompt.ys, ((0, 0), (prompt.dim, 0)))
        return jnp.stack([x_rows, y_rows], axis=1).reshape(-1, prompt.dim + prompt.outputs)

    def rows(self, context_length: int) -> int:
        return 2 * context_length + 1

    def prompt(self, rows: Float[Array, "rows D"], *, outputs: int = 1) -> Prompt:
        dim = _covariate_entries(rows, outputs)
        if len(rows) % 2 == 0:
            raise InputError(f"an interleaved prompt has an odd number of rows; got {len(rows)}.")
        return Prompt(rows[:-1:2, :dim], rows[1::2, dim:], rows[-1, :dim])


def require_sizes(prompt: AnyPrompt, dim: int, outputs: int) -> None:
    """Raises `ValueError` if a prompt does not have the d and m that a model is for."""
    if (prompt.dim, prompt.outputs) != (dim, outputs):
        raise InputError(
            f"the model is for d = {dim} and m = {outputs}; the prompt has d = {prompt.dim} and "
            f"m = {prompt.outputs}."
        )


def _covariate_entries(rows: Float[Array, "rows D"], outputs: int) -> int:
    """d: the width less the entries of the labels."""
    if not 0 < count("outputs", outputs) < rows.shape[1]:
        raise InputError(
            f"outputs={outputs} leaves no covariates in rows of width {rows.shape[1]}."
        )
    return rows.shape[1] - outputs
