"""Where a command computes."""

import jax

from mesalens.checks import InputError


def on(device: str | None):
    """Computes on the named kind of device inside the block."""
    if device is None:
        return jax.default_device(None)
    try:
        jax.devices(device)
        return jax.default_device(device)  # by its name, so that a training may take all devices of that kind
    except RuntimeError:
        there = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise InputError(f"there is no device {device!r} here; choose among: {there}.") from None
