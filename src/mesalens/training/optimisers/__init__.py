"""Optimisers, as settings that make an `optax.GradientTransformation`."""
