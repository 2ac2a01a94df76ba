"""A store whose ledger looks like that of real runs, at any size: a pool, a clustering, and runs of online selection.

Runs go over the pool in permutations. The loss of a sample falls as it is trained on, has noise, and is kept in float32
precision, as trainers measure it; a score has the parts utility and diversity; the best eighth of a step is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.config import Config
from curate.samples import SCHEMA
from curate.store import Artifact, Draft, Store

SOURCES = ["web", "code", "sums", "dialogue"]
SHARD = 100_000
CLUSTERS = 100
KEEP = 8
"""One of so many is kept."""

Floats = npt.NDArray[np.float64]


class Run(Config):
    pool: str | None = None
    selector: str = "uds"


@dataclass(frozen=True)
class Pool:
    """A pool of distinct samples and what is known of them.

    Attributes:
        ids: (n,) sample ids.
        loss: (n,) before training.
        tokens: (n,) int32.
    """

    ids: pa.Array
    loss: Floats
    tokens: npt.NDArray[np.int32]

    @classmethod
    def draw(cls, count: int) -> Pool:
        """`count` samples."""
        rng = np.random.default_rng(0)
        ids = pa.array([hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(count)])
        return cls(ids, rng.gamma(4.0, 0.6, count), rng.integers(20, 512, count, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.ids)


def steps(pool: Pool, run: int, rows: int, candidates: int, *, first: int = 0) -> Iterator[dict[str, Any]]:
    """The ledger's columns of a run's steps `first` + 1, ..., `rows` rows in all: what a trainer would give it."""
    rng = np.random.default_rng([run, first])
    start = first * candidates
    while rows > 0:
        count = min(candidates, rows)
        places = np.arange(start, start + count)
        index = (places % len(pool) * _stride(len(pool), run) + places // len(pool)) % len(pool)
        fall = 1 / (1 + 0.3 * (places // len(pool)))
        loss = _single(pool.loss[index] * fall * rng.lognormal(0.0, 0.1, count))
        parts = {"utility": _single(loss * 20 + rng.standard_normal(count)), "diversity": _single(rng.random(count))}
        score = _single(parts["utility"] + 8 * parts["diversity"])
        kept = np.zeros(count, dtype=bool)
        kept[np.argpartition(-score, max(1, count // KEEP) - 1)[: max(1, count // KEEP)]] = True
        yield {
            "sample_id": pa.DictionaryArray.from_arrays(index, pool.ids),
            "position": index,
            "kept": kept,
            "score": score,
            "weight": None,
            "loss": loss,
            "tokens": pool.tokens[index],
            "target_tokens": pool.tokens[index] // 2,
            "parts": parts,
        }
        start, rows = start + count, rows - count


def make_pool(store: Store, pool: Pool) -> Artifact:
    """The pool as `curate ingest` would have made it: texts and facts."""

    def fill(draft: Draft) -> None:
        for shard, start in enumerate(range(0, len(pool), SHARD)):
            ids = pool.ids.slice(start, SHARD)
            position = np.arange(start, start + len(ids))
            draft.write(shard, _texts(ids, position))
            draft.add("samples", _facts(ids, position), key=f"{shard:05d}")
        draft.rows = len(pool)

    return store.make("ingest", fill, Config(name="pool"))


def make_clusters(store: Store, pool: Pool) -> Artifact:
    """A clustering of the pool."""

    def fill(draft: Draft) -> None:
        rng = np.random.default_rng(1)
        n = len(pool)
        cluster = rng.integers(0, CLUSTERS, n, dtype=np.int32)
        first = np.full(n, None, dtype=object)
        first[np.unique(cluster, return_index=True)[1]] = 1
        columns = {
            "sample_id": pool.ids,
            "cluster": cluster,
            "similarity": rng.random(n),
            "representative": pa.array(first, pa.int32()),
            "nearest_id": pool.ids.take(pa.array(rng.permutation(n))),
            "nearest_similarity": rng.beta(8.0, 2.0, n),
        }
        draft.add("clusters", pa.table(columns))

    return store.make("cluster", fill, Config(name="clusters"))


def make_run(store: Store, name: str, pool: Artifact, write: Callable[[Draft], None]) -> Artifact:
    """A run on the pool whose ledger `write` fills."""

    def fill(draft: Draft) -> None:
        write(draft)
        metrics = {"eval_loss": 1.5, "train_runtime": 12.0, "seconds_scoring_forward": 3.0}
        columns = {"step": [1] * len(metrics), "metric": list(metrics), "value": list(metrics.values())}
        draft.add("metrics", pa.table(columns))

    return store.make("train", fill, Run(name=name, pool="pool", selector=name), {"pool": pool.fingerprint})


def _single(values: npt.NDArray[Any]) -> Floats:
    """Float64 of float32 precision."""
    return values.astype(np.float32).astype(np.float64)


def _stride(count: int, run: int) -> int:
    """A number without common factor with `count`: steps of it visit everything once."""
    stride = int(count * 0.381966) + 17 * run + 1
    while np.gcd(stride, count) > 1:
        stride += 1
    return stride


def _texts(ids: pa.Array, position: npt.NDArray[np.int64]) -> pa.Table:
    n = len(ids)
    said = [text for at in position for text in (f"What is {at} plus {at % 977}?", f"It is {at + at % 977}.")]
    messages = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * n), pa.array(said), pa.nulls(2 * n, pa.string())],
        fields=list(SCHEMA.field("messages").type.value_type),
    )
    columns = {
        "sample_id": ids,
        "position": position,
        "source": [SOURCES[at % len(SOURCES)] for at in position],
        "format": ["messages"] * n,
        "messages": pa.ListArray.from_arrays(np.arange(0, 2 * n + 1, 2, dtype=np.int32), messages),
        "tools": pa.nulls(n, pa.string()),
        "original": ["{}"] * n,
    }
    return pa.table([pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names], schema=SCHEMA)


def _facts(ids: pa.Array, position: npt.NDArray[np.int64]) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "sample_id": ids,
            "position": position,
            "source": [SOURCES[at % len(SOURCES)] for at in position],
            "format": ["messages"] * n,
            "turns": np.full(n, 2, np.int32),
            "characters": np.full(n, 40),
            "metadata": ['{"noise": "garbled"}' if at % 50 == 0 else '{"noise": ""}' for at in position],
        }
    )
