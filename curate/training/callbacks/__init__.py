"""Callbacks of the Trainer that report on a run while it trains."""
