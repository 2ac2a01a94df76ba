"""Measure per-sample gradients: of the candidates of a step, and of a whole pool at a checkpoint."""
