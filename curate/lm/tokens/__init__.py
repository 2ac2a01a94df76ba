"""Samples to tokens: chat templates, special tokens, loss masks, batches."""
