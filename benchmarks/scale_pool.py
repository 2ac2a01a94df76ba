"""The pool of scale.py: short samples, and features of which most are drawn.

Nothing large is imported at the top: the parent of all processes imports this, and its memory would count as theirs.
"""

from __future__ import annotations

import argparse
import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from curate.store import Draft, Store

D2, DIRECTIONS, NOISE = 128, 300, 0.05
HELD, PLANTED = 800, 200
"""Held-out rows that the pool does not have, and those that it has."""


def generate(args: argparse.Namespace) -> dict[str, Any]:
    """The samples, the first of them once more in a file of their own, and held-out rows, some of them in the pool."""
    rng = random.Random(args.seed)
    words = [f"{a}{b}" for a in ("ba", "do", "fi", "ku", "le", "mo", "na") for b in ("lor", "mit", "ran", "sel", "tok")]
    files = [(args.work / f"{name}.jsonl").open("w") for name in ("rows", "first", "held")]
    last: dict[str, str] = {}
    with files[0] as rows, files[1] as first, files[2] as held:
        for number in range(args.rows + HELD):
            row = {
                "instruction": f"{number}: {' '.join(rng.choices(words, k=10))}?",
                "input": "",
                "output": " ".join(rng.choices(words, k=14)),
                "domain": f"d{number % 20}",
            }
            if number % 20 == 19:  # a copy of an earlier answer, and near copies of earlier rows
                row["output"] = last["output"]
            elif number % 20 == 9:
                row = {**last, "output": f"{last['output']} {rng.choice(words)}"}
            last = row
            line = json.dumps(row) + "\n"
            if number >= args.rows or number < PLANTED:
                held.write(line)
            if number < args.rows:
                rows.write(line)
            if number < args.embedded:
                first.write(line)
    return {"mib": round((args.work / "rows.jsonl").stat().st_size / 2**20, 1)}


def store_of(args: argparse.Namespace) -> Store:
    from curate.store import Store

    return Store(args.work / "store")


def shards_of(args: argparse.Namespace) -> Any:
    from curate.store.vectors.vectors import VectorShards

    return VectorShards(store_of(args).get("features").shards(), "sketch")


def write_features(args: argparse.Namespace, store: Store, draft: Draft) -> None:
    """Shards and facts of the shape that `curate embed` writes, a pool's shard each."""
    import numpy as np
    import pyarrow as pa

    from curate.store.vectors.vectors import load_vectors

    measured = load_vectors(store.get("measured").shards(), "sketch")
    known = {name: row for row, name in enumerate(measured.ids.to_pylist())}
    facts = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = 'measured'").to_pandas()
    facts = facts.set_index("sample_id")
    directions = unit(np.random.default_rng(args.seed).standard_normal((DIRECTIONS, args.width)))
    rows = 0
    for shard, table in enumerate(store.get("pool").tables(["sample_id"])):
        ids = table["sample_id"].to_pylist()
        rng = np.random.default_rng([args.seed, shard])
        vectors = unit(
            directions[rng.integers(DIRECTIONS, size=len(ids))] + NOISE * rng.standard_normal((len(ids), args.width))
        )
        columns = drawn_facts(ids, rng)
        there = [row for row, name in enumerate(ids) if name in known]
        vectors[there] = measured.matrix[[known[ids[row]] for row in there]]
        for name, values in columns.items():
            if there and name != "sample_id":
                values[there] = facts.loc[[ids[row] for row in there], name].to_numpy()
        draft.add("features", pa.table(columns), key=f"{shard:05d}")
        flat = pa.array(vectors.astype(np.float16).reshape(-1))
        draft.write(shard, pa.table({"sample_id": ids, "sketch": pa.FixedSizeListArray.from_arrays(flat, args.width)}))
        rows += len(ids)
    draft.rows, draft.summary = rows, {"samples": rows, "measured": len(known), "drawn": rows - len(known)}


def drawn_facts(ids: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """Numbers in the columns of `features`."""
    import numpy as np

    n = len(ids)
    return {
        "sample_id": ids,
        "tokens": rng.integers(20, 60, n).astype(np.int32),
        "target_tokens": rng.integers(5, 20, n).astype(np.int32),
        "truncated": np.zeros(n, bool),
        "loss": rng.gamma(4.0, 0.7, n),
        "entropy": rng.gamma(3.0, 0.8, n),
        "utility": rng.gamma(9.0, 20.0, n),
        "sketch_norm": rng.gamma(9.0, 12.0, n),
    }


def unit(matrix: np.ndarray) -> np.ndarray:
    import numpy as np

    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
