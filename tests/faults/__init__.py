"""The fault harness: real commands in processes of their own, broken at every place where they write.

`python -m tests.faults` prints the fault matrix; `test_faults.py` runs a part of it, or with CURATE_FAULTS=all all.
"""
