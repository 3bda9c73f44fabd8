"""The device on which a command computes."""

from contextlib import AbstractContextManager

import jax

from mesalens.checks import InputError


def on(device: str | None) -> AbstractContextManager:
    """A context in which JAX computes on the named kind of device."""
    if device is None:
        return jax.default_device(None)
    try:
        jax.devices(device or "none")  # the empty name would be JAX's choice
        return jax.default_device(device)  # by name: a training may take all devices of the kind
    except RuntimeError:
        known = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise InputError(f"device must be one of {known}; got {device!r}.") from None
