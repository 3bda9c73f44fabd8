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

    One step along the rows is a rotation R, the same everywhere, `c(p + 1) = R c(p)`, and
    `c(p) · c(p') = Σ_k cos(ω_k (p - p'))` is largest at p = p': with both, attention finds the next
    row or the one before (`mesalens.theory.copying_transformer`).

    Raises:
        ValueError: if `entries`, the size, is odd.

    Source: Vaswani et al. (2017), Section 3.5 (longest = 10 000).
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
        """ω_k."""
        return self.longest ** (-np.arange(0, self.entries, 2) / self.entries)

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        angles = np.arange(rows)[:, None] * self.frequencies()
        pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        return jnp.asarray(pairs.reshape(rows, self.entries), float)

    def step(self, rows: int) -> Float[np.ndarray, "size size"]:
        """R to the power `rows`: `c(p + rows) = R^rows c(p)`, float64."""
        angles = rows * self.frequencies()
        c, s = np.cos(angles), np.sin(angles)
        rotations = np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0)
        return np.asarray(scipy.linalg.block_diag(*rotations))


class Learned(Positions):
    """A trained encoding for each row; at first normal, with standard deviation 0.02.

    Raises:
        ValueError: on a call for more rows than there are encodings.

    Source: as in GPT-2 (Radford et al., 2019).
    """

    table: Float[Array, "longest size"]

    @classmethod
    def initialise(cls, rows: int, size: int, *, key: Key[Array, ""]) -> "Learned":
        """Encodings before training."""
        shape = count("rows", rows), count("size", size)
        return cls(0.02 * jax.random.normal(key, shape))

    @property
    def size(self) -> int:
        return self.table.shape[1]

    def __call__(self, rows: int) -> Float[Array, "rows size"]:
        count("rows", rows, at_most=len(self.table))
        return self.table[:rows]
