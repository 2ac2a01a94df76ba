"""The label of each sample of a run: its source, a column of its row in the pool, its cluster, or the answer of SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...errors import ConfigError, DataError, did_you_mean
from ...runtime.terminal import cell
from ...store import Artifact
from ...store.catalog.limits import Limits
from ..export.selection import digest
from ..inputs import Inputs
from ..subsets import records_of
from ..tokens.turns import have_several_answers
from .config import TrainConfig

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable

MIX_ANSWER = "mix_by"
"""Key of the digest of the answer of --mix-by among the fingerprints."""

COUNTED = 20
"""Largest number of labels that are counted one by one."""

COLUMNS = "SELECT DISTINCT unnest(json_keys(metadata)) AS key FROM samples WHERE pool = $pool"
ROWS = "SELECT position, sample_id FROM samples WHERE pool = $pool"
SOURCES = "SELECT position, nullif(source, '') AS label FROM samples WHERE pool = $pool"
VALUES = "SELECT position, nullif(metadata->>$key, '') AS label FROM samples WHERE pool = $pool"
CLUSTERS = "SELECT sample_id, cluster::VARCHAR AS label FROM clusters x WHERE x.clusters = $clusters"


@dataclass(frozen=True)
class Labels:
    """The labels of the rows of a table.

    Attributes:
        names: the labels, in order of name.
        codes: (n,) int64, index into `names` of the label of each row; -1 for a row without one.
    """

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: list[str | None]) -> Labels:
        """Return the labels of rows; None stands for no label."""
        names = tuple(sorted({label for label in labels if label is not None}))
        index: dict[str | None, int] = {name: code for code, name in enumerate(names)}
        return cls(names, np.array([index.get(label, -1) for label in labels], np.int64))

    def counted(self) -> tuple[list[str], npt.NDArray[np.int64]] | None:
        """Return the labels to count by, and the index of each row's; None unless there are at least two.

        The smallest of more than `COUNTED` are one label. So are the rows without a label.
        """
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        largest = sorted(np.argsort(-sizes, kind="stable")[:COUNTED].tolist())
        names = [cell(self.names[code]) for code in largest]
        index = np.full(len(self.names) + 1, -1)  # the last is that of rows without a label
        index[largest] = np.arange(len(largest))
        if len(largest) < len(self.names):
            index[:-1][index[:-1] < 0] = len(names)
            names.append(f"({len(self.names) - len(largest)} others)")
        if (self.codes < 0).any():
            index[-1] = len(names)
            names.append("(none)")
        return (names, index[self.codes]) if len(names) > 1 else None

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        """Return the rows with a label, in order."""
        return np.flatnonzero(self.codes == self.names.index(name))


def labels_of(config: TrainConfig, inputs: Inputs, table: TokenTable, conversations: Mapping[str, str]) -> Labels:
    """Return the labels that --mix-by gives the rows of a table.

    An answer that is a sample of its own has the label of its conversation, unless SQL or the clusters name the answer.

    Args:
        config: config of the run.
        inputs: inputs of the run.
        table: tokens of the samples.
        conversations: id of each answer in the table -> id of its conversation.

    Raises:
        ConfigError: the pool has no such column.
        DataError: the answer of the SQL cannot be used.
        QueryError: the SQL is wrong, does more than read, or exceeds the limits.
    """
    by_position, values = _values(config, inputs, None if config.mix_sql is None else answer_of(config, inputs))
    if by_position:
        return Labels.of([values.get(position) for position in table.positions.tolist()])
    ids = table.ids
    return Labels.of([values.get(each, values.get(conversations.get(each))) for each in ids])


def labels_before(config: TrainConfig, inputs: Inputs, answer: pa.Table | None) -> Labels:
    """Return the labels of the rows of the pool, or of its subset, before they are tokenized.

    Where answers may be samples of their own, these are not known yet: then all labels that there are count.

    Args:
        config: config of the run.
        inputs: inputs of the run.
        answer: what the SQL of --mix-by returns; None without SQL.

    Raises:
        ConfigError, DataError, QueryError: as in `labels_of`.
    """
    by_position, values = _values(config, inputs, answer)
    pool, subset = inputs.artifacts["pool"], inputs.artifacts.get("subset")
    rows = inputs.store.query(ROWS, {"pool": inputs.store.display_names()[pool.fingerprint]})
    ids, positions = rows["sample_id"].to_pylist(), rows["position"].to_pylist()
    chosen = {*ids} if subset is None else {*records_of(subset)["sample_id"].to_pylist()}
    if not chosen <= {*ids}:  # answers
        chosen = {*ids}
    found = [
        values.get(position if by_position else each)
        for each, position in zip(ids, positions, strict=True)
        if each in chosen
    ]
    if not by_position and have_several_answers([pool]):
        found += values.values()
    return Labels.of(found)


def _values(config: TrainConfig, inputs: Inputs, answer: pa.Table | None) -> tuple[bool, dict[Any, str | None]]:
    """Return whether labels belong to positions of the pool, not to sample ids, and the label of each."""
    store, pool = inputs.store, inputs.artifacts["pool"]
    names = store.display_names()
    if answer is not None:
        rows = answer
        return False, dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    if config.mix_by == "cluster":
        clusters = inputs.artifacts["clusters"]
        _require_pool(inputs, clusters, pool)
        rows = store.query(CLUSTERS, {"clusters": names[clusters.fingerprint]})
        return False, dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    of_pool = {"pool": names[pool.fingerprint]}
    columns = store.query(COLUMNS, of_pool)["key"].to_pylist()
    if config.mix_by == "source":
        rows = store.query(SOURCES, of_pool)
        if len(set(rows["label"].to_pylist())) <= 1 and "source" in columns:  # one file, whose rows name their sources
            rows = store.query(VALUES, {**of_pool, "key": "source"})
    elif config.mix_by in columns:
        rows = store.query(VALUES, {**of_pool, "key": config.mix_by})
    else:
        if re.search(r"\s", config.mix_by.strip()):
            raise ConfigError(
                f"--mix-by '{cell(config.mix_by)}' is no column of the pool '{pool.name}' and no SQL that reads: give "
                "a column, or SQL that begins with SELECT, WITH or FROM."
            )
        raise ConfigError(
            f"The pool '{pool.name}' has no column '{cell(config.mix_by)}' for --mix-by."
            f"{did_you_mean(config.mix_by, {*map(cell, columns), 'source', 'cluster'})}"
        )
    return True, dict(zip(rows["position"].to_pylist(), rows["label"].to_pylist(), strict=True))


def _require_pool(inputs: Inputs, clusters: Artifact, pool: Artifact) -> None:
    """Raise `DataError` unless the clusters are of the pool."""
    from ..select.candidates import clusters_of

    clusters_of(inputs.store, clusters, pool, [])


def answer_digest(answer: pa.Table) -> dict[str, str]:
    """Return a digest of the answer of the SQL of --mix-by, for the fingerprint."""
    return {MIX_ANSWER: digest(answer.sort_by("sample_id"), ["sample_id", "label"])}


def answer_of(config: TrainConfig, inputs: Inputs) -> pa.Table:
    """Return the labels that SQL gives: `sample_id`, each once, and `label`, as text."""
    assert config.mix_sql is not None
    rows = inputs.store.query(config.mix_sql, (), Limits())
    for name in ("sample_id", "label"):
        if rows.column_names.count(name) != 1:
            raise DataError(
                f"The query of --mix-by must have the columns sample_id and label, each once, but the columns are "
                f"{', '.join(map(cell, rows.column_names))}."
            )
    rows = pa.table({name: rows[name].cast(pa.string()) for name in ("sample_id", "label")})
    rows = rows.filter(rows["sample_id"].is_valid())
    if (again := len(rows) - len(rows["sample_id"].unique())) > 0:
        raise DataError(
            f"The query of --mix-by names {again} samples again: each sample may have one label. Give it a GROUP BY "
            "sample_id."
        )
    return rows
