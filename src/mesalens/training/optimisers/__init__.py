"""Optimisers, as settings that make a `optax.GradientTransformation`."""
