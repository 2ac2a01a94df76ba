"""Data and model of `make demo`, which downloads nothing: a generated pool, and a tiny model pre-trained for it.

`world.py` defines a small invented world. `families.py` draws questions about it and about everyday tasks. `pool.py`
mixes these questions with planted duplicates and planted noise, so the truth about every row of the pool is known.
`model.py` pre-trains a tiny Llama from scratch.
"""
