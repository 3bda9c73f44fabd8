"""Positional encodings: which row of a prompt is which."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, positive


class Positions(eqx.Module):
    """Positional encodings: a vector of `size` entries for each of the rows 0, 1, …."""

    @abc.abstractmethod
    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        """The encodings of the first rows, of shape (rows, size).

        Args:
            rows: The number of rows.
        """

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of entries of an encoding."""


class Sinusoidal(Positions):
    """Sinusoidal encodings: entries 2k and 2k + 1 of row p are `sin(ω_k p)` and `cos(ω_k p)`.

    The frequencies are `ω_k = longest^(-2k/entries)`. One step along the rows is the same rotation
    R everywhere, `c(p + 1) = R c(p)`, and `c(p) · c(p') = Σ_k cos(ω_k (p - p'))` is largest at p =
    p'. Hence attention can find the next row or the previous one
    ([`copying_transformer`][mesalens.theory.copying_transformer]).

    Attributes:
        entries: The size of an encoding, an even number.
        longest: The longest wavelength is 2π times this at most.

    Raises:
        ValueError: If `entries` is odd or below 1, or `longest` is not positive.

    Source: Vaswani et al. (2017), Section 3.5 (longest = 10,000).
    """

    entries: int = eqx.field(static=True)
    longest: float = eqx.field(static=True, default=10_000.0)

    def __check_init__(self):
        positive("longest", self.longest)
        if count("entries", self.entries) % 2:
            raise InputError(f"entries must be even; got {self.entries}.")

    @property
    def size(self) -> int:
        return self.entries

    def frequencies(self) -> Float[np.ndarray, " waves"]:
        """The frequencies ω_k, of shape (entries / 2,)."""
        return self.longest ** (-np.arange(0, self.entries, 2) / self.entries)

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        angles = np.arange(rows)[:, None] * self.frequencies()
        pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        return jnp.asarray(pairs.reshape(rows, self.entries), float)

    def step(self, rows: int) -> Float[np.ndarray, "size size"]:
        """The matrix R to the power `rows`, with `c(p + rows) = R^rows c(p)`, in float64.

        Args:
            rows: The number of rows, which may be negative.
        """
        angles = rows * self.frequencies()
        c, s = np.cos(angles), np.sin(angles)
        rotations = np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0)
        return np.asarray(scipy.linalg.block_diag(*rotations))


class Learned(Positions):
    """A trained encoding for each row, initially normal with standard deviation 0.02.

    Attributes:
        table: The encodings, of shape (rows, size).

    Raises:
        ValueError: On a call, if there are more rows than encodings.

    Source: as in GPT-2 (Radford et al., 2019).
    """

    table: Float[Array, "longest size"]

    @classmethod
    def initialise(cls, rows: int, size: int, *, key: Key[Array, ""]) -> "Learned":
        """Encodings before training.

        Args:
            rows: The largest number of rows.
            size: The number of entries of an encoding.
            key: A random key.
        """
        shape = count("rows", rows), count("size", size)
        return cls(0.02 * jax.random.normal(key, shape))

    @property
    def size(self) -> int:
        return self.table.shape[1]

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        count("rows", rows, at_most=len(self.table))
        return self.table[:rows]
