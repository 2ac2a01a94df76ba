"""Follow a run while it trains: the page of `curate watch` and the lines of `curate status RUN --follow`.

Both read the run's records from its fragments, a few steps at a time. Nothing here opens the catalogue, writes to the
store, or is known to the run.
"""
