"""`Law`: what covariates and noise have in common."""

import math
from typing import ClassVar

import equinox as eqx

from mesalens.checks import InputError


class Law(eqx.Module):
    """A law that may define its moments, the methods listed in `_moments`."""

    _moments: ClassVar[tuple[str, ...]]

    finite_moments: ClassVar[float] = math.inf
    """The order below which all moments E|x|^k are finite. For noise this assumes that E|x|^k is
    finite.
    """
    rotation_invariant: ClassVar[bool] = False
    """Whether x and R x (of noise: ε given x and given R x) have the same law for every orthogonal
    R. False makes no statement.
    """

    @property
    def knows_moments(self) -> bool:
        """Whether the class defines all of its moments."""
        family = type(self)
        abstract = next(base for base in family.__mro__ if "_moments" in vars(base))
        return all(getattr(family, name) is not getattr(abstract, name) for name in self._moments)

    def _states_no_moments(self) -> InputError:
        return InputError(
            f"{type(self).__name__} does not define exact moments; simulate them, or define "
            f"{' and '.join(self._moments)} in the class."
        )


def require_moments(law: Law) -> None:
    """Checks that covariates, or noise, have a finite fourth moment.

    Args:
        law: The covariates or the noise.

    Raises:
        ValueError: If they do not.
    """
    if law.finite_moments <= 4:
        raise InputError(
            f"{type(law).__name__} has finite moments only below order {law.finite_moments:g}, but "
            "the theory needs the fourth; choose lighter tails."
        )
