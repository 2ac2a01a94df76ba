"""Causal language models: load, measure, estimate memory."""
