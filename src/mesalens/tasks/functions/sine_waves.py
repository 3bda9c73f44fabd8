"""Sine waves of one number."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens.checks import InputError, finite
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


def _as_range(bounds: Any) -> tuple[float, float]:
    try:
        low, high = bounds
        return float(low), float(high)
    except (TypeError, ValueError):
        raise InputError(
            f"amplitude and phase must be ranges such as (0.1, 0.5); got {bounds!r}."
        ) from None


def _range(low: float, high: float) -> Any:
    """A keyword-only field for a range, with its default."""
    return eqx.field(converter=_as_range, static=True, default=(low, high), kw_only=True)


class SineWaves(Functions):
    """Sine waves of one number x: f(x) = scale a sin(x + φ), a and φ uniform in given ranges.

    Both are drawn independently for each of the m outputs. The prior is sign-symmetric if phases
    fill whole turns (as -f has the phase φ + π) or amplitudes are symmetric about 0; the default
    phases fill half a turn. It is rotation-invariant (for one number: f(-x) is as likely as f(x))
    if phases fill whole turns or are symmetric about π/2 or -π/2 (as f(-x) has the phase π - φ);
    the default phases are.

    Attributes:
        dim: 1.
        outputs: m, the number of entries of a value.
        scale: A factor of every value.
        amplitude: The smallest and the largest amplitude a.
        phase: The smallest and the largest phase φ, in radians.

    Raises:
        ValueError: If `dim` is not 1, or a range is not two finite numbers in order.

    Source: von Oswald et al. (2023), Section 4, with x ~ U[-5, 5] and n = 10 in the released code
    (non_linear_regression.ipynb). That code draws a and φ with the same random key, so that there
    φ = π (a - 0.1) / 0.4. Here they are independent.
    """

    dim: int = eqx.field(static=True, default=1)
    amplitude: tuple[float, float] = _range(0.1, 0.5)
    phase: tuple[float, float] = _range(0.0, math.pi)

    def __check_init__(self):
        if self.dim != 1:
            raise InputError(f"dim must be 1 for sine waves; got {self.dim}.")
        for name, (low, high) in (("amplitude", self.amplitude), ("phase", self.phase)):
            if finite(name, low) > finite(name, high):
                raise InputError(
                    f"{name} must be a range with the smaller number first; got {(low, high)}."
                )

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        amplitude_key, phase_key = jax.random.split(key)
        shape = (*xs.shape[:-2], 1, self.outputs)
        amplitudes = jax.random.uniform(amplitude_key, shape, float, *self.amplitude)
        phases = jax.random.uniform(phase_key, shape, float, *self.phase)
        return self.scale * amplitudes * jnp.sin(xs + phases)

    @property
    def sign_symmetric(self) -> bool:
        least, largest = self.amplitude
        return least == -largest or self._whole_turns

    @property
    def rotation_invariant(self) -> bool:
        first, last = self.phase
        return self._whole_turns or abs(math.cos((first + last) / 2)) < 1e-12

    @property
    def _whole_turns(self) -> bool:
        first, last = self.phase
        return last - first > 1 and abs(math.remainder(last - first, 2 * math.pi)) < 1e-12
