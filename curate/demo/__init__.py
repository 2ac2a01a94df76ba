"""What `make demo` runs on where nothing may be downloaded: a generated pool, and a tiny model pre-trained for it.

`world.py` is a small invented world, `families.py` asks about it and about everyday tasks, `pool.py` mixes questions,
planted duplicates and planted noise into a pool whose truth is known, `model.py` pre-trains a tiny Llama from scratch.
"""
