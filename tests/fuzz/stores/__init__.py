"""Received stores, mutated from a seed, and what must hold of every command on each of them.

`python -m tests.fuzz --stores 1000` mutates a store that real commands made, runs the commands of `commands.py` on each
mutant, and checks what `checks.py` lists. The tests run a small part of it.
"""
