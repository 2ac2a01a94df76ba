"""The fault harness: it runs real commands in their own processes and breaks them at every point where they write.

`python -m tests.faults` prints the fault matrix. `test_faults.py` runs a part of it, or all of it with
CURATE_FAULTS=all.
"""
