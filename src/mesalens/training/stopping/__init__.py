"""When a run has converged."""
