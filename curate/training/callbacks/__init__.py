"""Callbacks of the Trainer that report on a run while it trains, to the store or to a function of the user."""
