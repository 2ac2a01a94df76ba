"""Checks behind `curate doctor`: the software, the devices, the store, and whether a planned run fits.

The checks look for broken parts, so each check works without the others. A package that cannot be imported is one line
of the report and does not end it. No check uses the network.
"""
