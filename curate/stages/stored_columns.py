"""Columns of numbers of an artifact's records, by name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..errors import ConfigError, did_you_mean
from ..store import Artifact, Store

KEYS = ("features", "sample_id")
"""Columns of the table `features` that are not features."""


def column_of(store: Store, artifact: Artifact, column: str, table: str = "features") -> dict[str, Any]:
    """Return a column of numbers or truth values of an artifact's records: sample id -> value.

    Args:
        store: the store of the artifact.
        artifact: the artifact.
        column: name of the column.
        table: table of the records.

    Raises:
        ConfigError: there is no such column with a value.
    """
    name = store.display_names()[artifact.fingerprint]
    rows = store.query(f"SELECT * FROM {table} WHERE {table} = $name", {"name": name})
    numeric = [f.name for f in rows.schema if f.name not in KEYS and _is_number(f.type)]
    if len(rows):  # a column of another command, or of a signal that was not measured, is null everywhere
        numeric = [column for column in numeric if rows[column].null_count < len(rows)]
    if column not in numeric:
        raise ConfigError(
            f"'{artifact.name}' has no numeric column '{column}'.{did_you_mean(column, numeric)} "
            "Its columns are the --signals that curate embed or curate grade was given, and the names of its scores."
        )
    return dict(zip(rows["sample_id"].to_pylist(), rows[column].to_pylist(), strict=True))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
