"""Tokens of the samples that a stage reads: how conversations are split, tokenized and dated."""
