"""Hostile and odd input, generated from a seed: rows, files, configs and SQL, and the laws that they must not break.

The tests run a small part of it; `python -m tests.fuzz --rows 10000 --seed 0` runs as much as is asked for and counts.
"""
