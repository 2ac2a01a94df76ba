"""The ledger: one row for every candidate that a run has scored."""
