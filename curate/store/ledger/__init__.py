"""The ledger of a run: one row for every candidate that the run has scored."""
