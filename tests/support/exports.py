"""Helpers of the tests of `curate export`: they make a pool, a run over it and an export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import yaml

from curate.config import Config, Ref
from curate.stages import make
from curate.stages.pools import pool_samples
from curate.store import Artifact, Store

ROWS = [{"instruction": f"q{n}", "input": "", "output": f"a{n}", "domain": ["even", "odd"][n % 2]} for n in range(6)]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


class RunConfig(Config):
    """The part of the config of a run that an export reads."""

    pool: Ref
    model: str = "me/tiny"
    selector: str = "uds"
    selector_args: dict[str, float] = {"diversity_weight": 0.5}  # noqa: RUF012
    seed: int = 7
    max_length: int = 2048


def ingest(store: Store, rows: Sequence[Mapping[str, Any]] = ROWS, name: str = "pool", **options: Any) -> list[str]:
    """Make a pool of these rows and return its sample ids in order."""
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = make(store, "ingest", data=str(path), name=name, **options)
    return [sample.sample_id for _, sample in pool_samples(pool)]


def train(
    store: Store, ids: Sequence[str], kept: Sequence[Sequence[int]], name: str = "uds", max_length: int = 2048
) -> Artifact:
    """Make a run over `ids` that kept these samples, step by step. All samples are candidates in every step."""
    rows = [
        {"step": step, "rank": 0, "slot": slot, "sample_id": ids[n], "position": n, "kept": n in chosen}
        | {"score": float(10 * step + n), "weight": None, "loss": float(n), "tokens": 5, "target_tokens": 2}
        | {"parts": [("utility", n / 2)]}
        for step, chosen in enumerate(kept, start=1)
        for slot, n in enumerate([*chosen, *(n for n in range(len(ids)) if n not in chosen)])
    ]
    schema = pa.schema(
        {"step": pa.int64(), "rank": pa.int32(), "slot": pa.int32(), "sample_id": pa.string(), "position": pa.int64()}
        | {"kept": pa.bool_(), "score": pa.float64(), "weight": pa.float64(), "loss": pa.float64()}
        | {"tokens": pa.int32(), "target_tokens": pa.int32(), "parts": pa.map_(pa.string(), pa.float64())}
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    config = RunConfig(name=name, pool="pool", seed=7 if name == "uds" else len(name), max_length=max_length)
    return store.make(
        "train", lambda draft: draft.add("ledger", table), config, {"pool": store.get("pool").fingerprint}
    )


def export(store: Store, **options: Any) -> Artifact:
    return make(store, "export", **{"name": "out", **options})


def loaded(folder: str = "exports/out") -> list[dict[str, Any]]:
    return list(datasets.load_from_disk(folder))


def front_matter(folder: str = "exports/out") -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(Path(folder, "README.md").read_text().split("---\n")[1])
    return values
