"""Take what earlier features have already: samples that the same model has measured in the same way.

A grown pool then costs a pass over its new samples only. Samples are found by their id, which is a hash of their
content, so it does not matter where they stood in the earlier pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, StoreError
from ...log import LOGGER
from ...store import Artifact, Store
from ...store.artifacts.parquet import read_parquet, write_parquet
from ...store.rows.out_of_core import first_of_each
from ..inputs import Inputs
from .columns import MAY_BE_NULL, NUMBERS, Ints, numbers_of
from .config import EmbedConfig

RECORDS = f"""
SELECT sample_id, tokens, target_tokens, truncated, {", ".join(numbers_of(list(NUMBERS)))} FROM features
WHERE features = $features
"""

KNOWN = pa.schema(
    {
        "sample_id": pa.string(),
        "tokens": pa.int32(),
        "target_tokens": pa.int32(),
        "truncated": pa.bool_(),
        **dict.fromkeys(numbers_of(list(NUMBERS)), pa.float64()),
        "features": pa.string(),
        "shard": pa.int32(),
        "row": pa.int64(),
    }
)
"""Columns of the file of known samples: their records, and where their vectors are: features, shard and row."""

NOT_COMPARED = ("signals", "shard_rows", "strict", "turns")
"""Options that do not change what is measured of a sample. An answer that is a sample of its own has another id."""


def earlier_features(config: EmbedConfig, inputs: Inputs, reading: str) -> list[Artifact]:
    """Return the features that were measured like those of `config`, of any pool, the latest first.

    Args:
        config: options of this pass.
        inputs: inputs of this pass.
        reading: digest of the tokenization of this pass.
    """
    if config.fresh:
        return []
    wanted, made_of = _compared(config), _measured_from(inputs.fingerprints)
    found = []
    for artifact in reversed(inputs.store.artifacts()):
        if artifact.stage != "embed" or _measured_from(artifact.inputs) != made_of:
            continue
        try:
            recorded = EmbedConfig(**EmbedConfig.recorded(artifact.config))
        except (ValueError, ConfigError):  # made by another version
            continue
        has_signals = set(config.signals) <= set(recorded.signals)
        if has_signals and _compared(recorded) == wanted and reading_of(artifact) == reading and _is_whole(artifact):
            found.append(artifact)
    return found


def _measured_from(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs that decide what is measured of a sample: not the pool, nor what is joined to it."""
    return {name: value for name, value in fingerprints.items() if name not in ("pool", "before")}


def _compared(config: EmbedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.identity().items() if key not in NOT_COMPARED}


def reading_of(artifact: Artifact) -> str | None:
    """Return the digest of the tokenization of features; None if its file cannot be read."""
    try:
        return (artifact.path / "reading.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _is_whole(artifact: Artifact) -> bool:
    try:
        artifact.check()
    except StoreError as error:
        LOGGER.warning(f"Nothing is taken from the features '{artifact.name}': {error}")
        return False
    return True


def write_known(store: Store, earlier: Sequence[Artifact], signals: Sequence[str], path: Path) -> None:
    """Write what is known of samples: their records, and the artifact, shard and row of their vectors.

    Args:
        store: the store that has the features.
        earlier: the features, as `earlier_features` returns them. A sample is taken from the first that has it.
        signals: the signals that must be known of each sample.
        path: the Parquet file to write, atomically.
    """
    parts = [KNOWN.empty_table(), *(_known(store, artifact, signals) for artifact in earlier)]
    known = pa.concat_tables(parts)
    write_parquet(path, known.take(pa.array(first_of_each(known["sample_id"]))))


def known_samples(store: Store, artifact: Artifact, signals: Sequence[str]) -> pa.Table:
    """Return the records of features, one row per sample that has all signals."""
    records = store.query(RECORDS, {"features": store.display_names()[artifact.fingerprint]})
    for column in {"tokens", *numbers_of(signals)} - {*MAY_BE_NULL}:
        records = records.filter(pc.is_valid(records[column]))
    return records.take(pa.array(first_of_each(records["sample_id"])))


def _known(store: Store, artifact: Artifact, signals: Sequence[str]) -> pa.Table:
    records = known_samples(store, artifact, signals)
    locations = [KNOWN.empty_table().select(["sample_id", "shard", "row"])]
    for shard, part in enumerate(artifact.shards()):
        ids = read_parquet(part, ["sample_id"])["sample_id"]
        columns = [ids, np.full(len(ids), shard, np.int32), np.arange(len(ids), dtype=np.int64)]
        locations.append(pa.table(columns, schema=locations[0].schema))
    joined = records.join(pa.concat_tables(locations), "sample_id", join_type="inner")
    features = pa.array([artifact.fingerprint] * len(joined), pa.string())
    return joined.append_column("features", features).select(KNOWN.names).cast(KNOWN)


@dataclass(frozen=True)
class Earlier:
    """Samples that `write_known` wrote, and the features that have their vectors.

    Attributes:
        known: one row per sample.
        row_of: sample id -> row of `known`.
        parts: fingerprint of features -> their shards.
    """

    known: pa.Table
    row_of: Mapping[str, int]
    parts: Mapping[str, Sequence[Path]]

    @classmethod
    def read(cls, path: Path, earlier: Sequence[Artifact]) -> Earlier:
        """Read the file; samples of features that are gone since it was written are not known any more."""
        known = read_parquet(path)
        parts = {artifact.fingerprint: artifact.shards() for artifact in earlier}
        known = known.filter(pc.is_in(known["features"], pa.array(list(parts), pa.string())))
        return cls(known, {name: row for row, name in enumerate(known["sample_id"].to_pylist())}, parts)

    def rows(self, ids: Sequence[str]) -> Ints:
        """Return the row of `known` of each sample, (n,); -1 for a sample that must be measured."""
        return np.array([self.row_of.get(sample_id, -1) for sample_id in ids], np.int64)

    def joined(self, rows: Ints, records: pa.Table, vectors: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return records and vectors of all samples of a shard, in order.

        Args:
            rows: (n,) what `rows` returned for its samples.
            records: records of the m samples that were measured, those with -1, in order.
            vectors: their vectors.
        """
        found = np.flatnonzero(rows >= 0)
        known = self.known.take(pa.array(rows[found]))
        order = np.argsort(np.concatenate([np.flatnonzero(rows < 0), found]))
        old_records = known.select(records.column_names).cast(records.schema)
        old_vectors = self._vectors(known, vectors.schema)
        joined = (
            pa.concat_tables(pair).take(pa.array(order)) for pair in ((records, old_records), (vectors, old_vectors))
        )
        return next(joined), next(joined)

    def _vectors(self, known: pa.Table, schema: pa.Schema) -> pa.Table:
        """Read the vectors of known samples, each shard once."""
        locations = known.select(["features", "shard", "row"]).to_pylist()
        by_shard: dict[tuple[str, int], list[int]] = {}
        for index, place in enumerate(locations):
            by_shard.setdefault((place["features"], place["shard"]), []).append(index)
        parts, order = [schema.empty_table()], []
        for (fingerprint, shard), indices in by_shard.items():
            table = read_parquet(self.parts[fingerprint][shard], schema.names)
            parts.append(table.take(pa.array([locations[index]["row"] for index in indices])).cast(schema))
            order += indices
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.array(order, np.int64), kind="stable")))

    def count(self, records: Iterable[pa.Table]) -> int:
        """Return how many samples of the records are known."""
        ids = self.known["sample_id"].combine_chunks()
        return sum(pc.sum(pc.is_in(table["sample_id"], ids)).as_py() or 0 for table in records)
