"""Identifications that take a second or two: few families, regimes and prompts.

Tests name it as a plugin and import it too, before pytest could rewrite its assertions:
PYTEST_DONT_REWRITE.
"""

import pytest

from mesalens.identification import (
    _identify,
    candidates,
    evidence,
    expected,
    fingerprint,
    prompts,
    spectral_filter,
    subject,
)

FAMILIES = ("zero", "mean-label", "bayes", "least-squares", "ridge", "nearest-neighbours")
REGIMES = ("task", "labels-tripled", "short")
BATCH = 256


@pytest.fixture
def brief(monkeypatch):
    """Makes `identify` try few families in few regimes; all else is as it is."""
    known, regimes = candidates.known, _identify.REGIMES

    def few(task):
        families, left_out = known(task)
        return [family for family in families if family.name in FAMILIES], left_out

    monkeypatch.setattr(candidates, "known", few)
    monkeypatch.setattr(_identify, "REGIMES", tuple(r for r in regimes if r.name in REGIMES))
    for module in (_identify, evidence, expected, prompts, subject):
        monkeypatch.setattr(module, "BATCH", BATCH)
    monkeypatch.setattr(fingerprint, "PROMPTS", 32)
    monkeypatch.setattr(spectral_filter, "CONTEXTS", 16)
