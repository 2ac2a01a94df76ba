"""Evaluate a model: held-out losses, generated answers, lm-eval tasks."""
