"""Rules for when a run has converged."""
