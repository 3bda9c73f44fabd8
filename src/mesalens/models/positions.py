"""Positional encodings: which row of a prompt is which."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, positive


class Positions(eqx.Module):
    """A vector for each of the rows 0, 1, …; `size` entries long."""

    @abc.abstractmethod
    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        """The encodings of the first rows."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many entries an encoding has."""


class Sinusoidal(Positions):
    """Entries 2k and 2k + 1 of row p are `sin(ω_k p)` and `cos(ω_k p)`, ω_k = longest^(-2k/size).

    One step along the rows is a rotation R, the same everywhere, `c(p + 1) = R c(p)`, and `c(p) · c(p') = Σ_k cos(ω_k (p - p'))` is
    largest where p = p': with both, attention finds the next row or the one before (`mesalens.theory.copying_transformer`).

    Raises `ValueError` where the size is odd. Source: Vaswani et al. (2017), Section 3.5 (longest = 10 000).
    """

    entries: int = eqx.field(static=True)
    longest: float = eqx.field(static=True, default=10_000.0)

    def __check_init__(self):
        positive("the longest wave length", self.longest)
        if count("the size of an encoding", self.entries) % 2:
            raise InputError(f"the size of a sinusoidal encoding is {self.entries}; give an even number.")

    @property
    def size(self) -> int:
        return self.entries

    def frequencies(self) -> Float[np.ndarray, " waves"]:
        """ω_k."""
        return self.longest ** (-np.arange(0, self.entries, 2) / self.entries)

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        angles = np.arange(rows)[:, None] * self.frequencies()
        return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(rows, self.entries), float)

    def step(self, rows: int) -> Float[np.ndarray, "size size"]:
        """R to the power `rows`: `c(p + rows) = R^rows c(p)`, float64."""
        matrix = np.zeros((self.entries, self.entries))
        for wave, angle in enumerate(rows * self.frequencies()):
            pair = slice(2 * wave, 2 * wave + 2)
            matrix[pair, pair] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        return matrix


class Learned(Positions):
    """An encoding for each row that training finds; at first normal, of standard deviation 0.02.

    Raises `ValueError` for more rows than there are encodings. Source: as in GPT-2 (Radford et al., 2019).
    """

    table: Float[Array, "longest size"]

    @classmethod
    def initialise(cls, rows: int, size: int, *, key: Key[Array, ""]) -> "Learned":
        """Encodings as before training."""
        shape = count("the number of rows", rows), count("the size of an encoding", size)
        return cls(0.02 * jax.random.normal(key, shape))

    @property
    def size(self) -> int:
        return self.table.shape[1]

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        if rows > len(self.table):
            raise InputError(
                f"the prompt has {rows} rows and there are learned encodings for {len(self.table)}; give a shorter context."
            )
        return self.table[:rows]
