"""Read the candidates and the target of a pool selector from artifacts, joined by sample id.

Artifacts that do not belong together (features of another pool, a target measured by another model) raise an error.
They are compared by fingerprint, so artifacts may be renamed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...config import EXTERNAL, NOT_HASHED, REF
from ...errors import DataError
from ...log import LOGGER
from ...pool_selectors import Candidates, Target
from ...pool_selectors.candidates import Floats, Ints, Matrix, VectorBlocks
from ...samples import Sample
from ...store import Artifact, Store
from ...store.rows.out_of_core import first_of_each
from ..embed.config import EmbedConfig
from ..inputs import Inputs
from ..pools import pool_samples
from ..stored_columns import column_of
from ..tokens.turns import Answers, answers_of
from .neighbours import FeatureNeighbours

if TYPE_CHECKING:
    from ...store.vectors.vectors import VectorShards

HELD_BYTES = 1 << 31
"""Maximum bytes of vectors that are held in memory."""
NO_ANSWERS: Answers = MappingProxyType({})
SKETCH_FIELDS = {"d1", "d2", "seed"}
"""Fields of `EmbedConfig` that only change sketches."""


def read_candidates(
    inputs: Inputs, needs: Collection[str], on: str, answers: Answers = NO_ANSWERS, *, column: str | None = None
) -> tuple[Candidates, Ints]:
    """Return the distinct samples of the pool that may be selected, and the first row of each in the pool, (n,).

    Memory: about 250 bytes per candidate for its id and source. Vectors up to 2 GiB are held in memory, larger ones are
    read in blocks.

    Args:
        inputs: the pool, and the features and clusters if the method uses them. With features, samples that are not in
            them are no candidates: no model can be trained on them.
        needs: data that the method reads; see `PoolSelector.needs`.
        on: name of the vector column in the features.
        answers: answers that are candidates instead of their conversations.
        column: name of the column of the features that the method reads as values.

    Raises:
        ConfigError: the features have no such column.
        DataError: the features are of another pool, or have no vectors and the method needs them.
    """
    pool, features, store = inputs.artifacts["pool"], inputs.artifacts.get("features"), inputs.store
    lengths = None
    if features is not None:
        check_pool(features, pool, "features")
        if {"vectors", "neighbours"} & {*needs}:
            check_vectors(features)
        lengths = _records(store, features, "features", "tokens")
    rows = _first_rows(pool, None if lengths is None else lengths["sample_id"], answers)
    ids: list[str] = rows["sample_id"].to_pylist()
    clusters = inputs.artifacts.get("clusters")
    candidates = Candidates(
        ids,
        rows["source"].to_pylist(),
        tokens=None
        if features is None or lengths is None or features.stage == "grade" or "encoder" in features.inputs
        else _aligned(lengths, "tokens", rows["sample_id"]),
        vectors=_vectors(features, on, ids) if features is not None and "vectors" in needs else None,
        clusters=None if clusters is None else clusters_of(store, clusters, pool, ids),
        texts=_texts(pool, rows) if "texts" in needs else None,
        neighbours=FeatureNeighbours(features, on, ids) if features is not None and "neighbours" in needs else None,
        values=None if features is None or column is None else _values(store, features, column, ids),
    )
    return candidates, rows["position"].to_numpy().astype(np.int64)


def read_target(inputs: Inputs, needs: Collection[str], on: str) -> Target:
    """Return the target; it is empty if none is given."""
    pool, features = inputs.artifacts.get("target"), inputs.artifacts.get("target_features")
    if features is None:
        if pool is None:
            return Target()
        samples = _distinct(pool)
        texts = [text_of(sample) for sample in samples] if "target_texts" in needs else None
        return Target(subtasks_of(samples, pool.name), texts=texts)
    if pool is not None:
        check_pool(features, pool, "target features")
    check_comparable(inputs.artifacts["features"], features, on)
    return Target(vectors=_loaded(features, on).matrix)


def subtasks_of(samples: Sequence[Sample], pool: str) -> list[str]:
    """Return the column `subtask` of every sample. Without such a column all samples are of one subtask.

    Raises:
        DataError: some samples have a subtask and some have none.
    """
    named = [sample.original.get("subtask") for sample in samples]
    missing = sum(name is None for name in named)
    if 0 < missing < len(named):
        raise DataError(
            f"{missing} of {len(named)} samples of the target '{pool}' have no subtask: fill the column subtask in "
            "every row, or in none."
        )
    return ["" if name is None else str(name) for name in named]


def text_of(sample: Sample) -> str:
    """Return the contents of all messages of a sample, joined by line breaks."""
    return "\n".join(str(message.get("content") or "") for message in sample.messages)


def _distinct(pool: Artifact) -> list[Sample]:
    """Return each conversation of a pool once, where it comes first."""
    found: dict[str, Sample] = {}
    for _, sample in pool_samples(pool):
        found.setdefault(sample.sample_id, sample)
    return list(found.values())


def answers_of_features(inputs: Inputs) -> Answers | None:
    """Return the answers that the features, or those of the clusters, were made of; None if there are no features."""
    clusters = inputs.artifacts.get("clusters")
    of_clusters = _made(inputs.store, clusters.inputs.get("features")) if clusters else None
    reader = inputs.artifacts.get("features") or of_clusters
    return None if reader is None else answers_of(inputs.store, reader)


def _made(store: Store, fingerprint: str | None) -> Artifact | None:
    return next((artifact for artifact in store.artifacts() if artifact.fingerprint == fingerprint), None)


def _first_rows(pool: Artifact, among: Any, answers: Answers) -> pa.Table:
    """Return id, source and position of the distinct samples at their first rows, and the turn of answers.

    Args:
        pool: the pool.
        among: ids of the samples; None: of all.
        answers: sample id -> (conversation id, turn); a conversation that has answers is no sample itself.
    """
    conversations = {conversation for conversation, _ in answers.values()}
    whole = among
    if answers and among is not None:
        whole = pa.array([*among.to_pylist(), *conversations], pa.string())
    parts = []
    for table in pool.tables(["sample_id", "position", "source"]):
        parts.append(table if whole is None else table.filter(pc.is_in(table["sample_id"], value_set=whole)))
    rows = pa.concat_tables(parts)
    rows = rows.take(pa.array(first_of_each(rows["sample_id"])))
    if not answers:
        return rows.append_column("turn", pa.nulls(len(rows), pa.int64()))
    return _with_answers(rows, answers, None if among is None else set(among.to_pylist()))


def _with_answers(rows: pa.Table, answers: Answers, among: set[str] | None) -> pa.Table:
    """Replace the rows of conversations by those of their answers, in order; `among` are the ids that stay."""
    of: dict[str, list[tuple[int, str]]] = {}
    for sample_id, (conversation, turn) in answers.items():
        of.setdefault(conversation, []).append((turn, sample_id))
    found: list[dict[str, Any]] = []
    for row in rows.to_pylist():
        parts = sorted(of.get(row["sample_id"], [(None, row["sample_id"])]))
        kept = [(turn, sample_id) for turn, sample_id in parts if among is None or sample_id in among]
        found += [{**row, "sample_id": sample_id, "turn": turn} for turn, sample_id in kept]
    return pa.Table.from_pylist(found, schema=rows.schema.append(pa.field("turn", pa.int64())))


def _texts(pool: Artifact, rows: pa.Table) -> list[str]:
    """Return the texts of the samples, in order; that of an answer begins with the messages before it."""
    turns: dict[int, list[int | None]] = {}
    for position, turn in zip(rows["position"].to_pylist(), rows["turn"].to_pylist(), strict=True):
        turns.setdefault(position, []).append(turn)
    texts = []
    for table in pool.tables(["position", "messages"]):
        selected = table.filter(pc.is_in(table["position"], value_set=rows["position"]))
        for batch in selected.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                parts = [part["content"] or "" for part in row["messages"]]
                ends = [None if turn is None else turn + 1 for turn in turns[row["position"]]]
                texts += ["\n".join(parts[:end]) for end in ends]
    return texts


def _records(store: Store, artifact: Artifact, table: str, column: str) -> pa.Table:
    """Return `sample_id` and a column of an artifact's records. The view names the artifact in the column `table`."""
    rows = store.query(
        f'SELECT sample_id, {column} FROM {table} WHERE "{table}" = $name',
        {"name": store.display_names()[artifact.fingerprint]},
    )
    return rows.combine_chunks()


def _aligned(records: pa.Table, column: str, ids: Any, unknown: int = -1) -> Ints:
    """Return the value of a column for each of n ids, (n,); `unknown` for an id that has no record."""
    values = records[column].take(pc.index_in(ids, value_set=records["sample_id"]))
    aligned: Ints = pc.fill_null(values.cast(pa.int64()), unknown).to_numpy()
    return aligned


def _values(store: Store, features: Artifact, column: str, ids: Sequence[str]) -> Floats:
    """Return the numbers of a column in the order of `ids`, (n,); NaN for a sample without one."""
    values = column_of(store, features, column)
    return np.array([np.nan if (value := values.get(name)) is None else value for name in ids], np.float64)


class _DiskVectors:
    """Vectors of candidates that stay on disk.

    Args:
        vectors: vectors of the features.
        ids: sample ids of the candidates.
    """

    def __init__(self, vectors: VectorShards, ids: Sequence[str]) -> None:
        self._vectors, self._ids = vectors, ids
        self.shape = (len(ids), vectors.width)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[Ints, Matrix]]:
        """Yield rows of candidates and their vectors, one shard at a time; candidates without a vector are skipped."""
        start = 0
        for part in self._vectors:
            names = part.ids.to_pylist()
            if names == self._ids[start : start + len(names)]:  # in the order of the pool, the usual case
                yield np.arange(start, start + len(names)), part.matrix
                start += len(names)
                continue
            rows = np.array([self._row_of.get(name, -1) for name in names], np.int64)
            yield rows[rows >= 0], part.matrix[rows >= 0]
            start = int(rows.max(initial=start - 1)) + 1

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self._ids)}


def _vectors(features: Artifact, on: str, ids: list[str]) -> Matrix | VectorBlocks:
    """Return vectors (n, d) in the order of `ids`, NaN for ids without one; on disk if they are large."""
    from ...store.vectors.vectors import VectorShards

    stored = VectorShards(features.shards(), on)
    if 4 * stored.rows * stored.width > HELD_BYTES:
        return _DiskVectors(stored, ids)
    vectors = _loaded(features, on)
    row_of = {sample_id: row for row, sample_id in enumerate(vectors.ids.to_pylist())}
    if list(row_of) == ids:
        matrix: Matrix = vectors.matrix
        return matrix
    aligned = np.full((len(ids), vectors.matrix.shape[1]), np.nan, np.float32)
    known = [row for row, sample_id in enumerate(ids) if sample_id in row_of]
    aligned[known] = vectors.matrix[[row_of[ids[row]] for row in known]]
    return aligned


def _loaded(features: Artifact, on: str) -> Any:
    from ...store.vectors.vectors import load_vectors

    vectors = load_vectors(features.shards(), on)
    if vectors.rejected:
        LOGGER.warning(
            "%d samples of '%s' are rejected, because %s is not finite or zero (%s%s).",
            len(vectors.rejected),
            features.name,
            on,
            ", ".join(vectors.rejected[:3]),
            ", ..." if len(vectors.rejected) > 3 else "",
        )
    return vectors


def _width(features: Artifact, on: str) -> int:
    from ...store.vectors.vectors import VectorShards

    return VectorShards(features.shards(), on).width


def clusters_of(store: Store, clusters: Artifact, pool: Artifact, ids: Sequence[str]) -> Ints:
    """Return the cluster of each sample of the pool, (n,); -1 for a sample that the clustering rejected.

    Raises:
        DataError: the clusters are of another pool, or the features they were made from are gone.
    """
    features = _made(store, clusters.inputs.get("features"))
    if features is None:
        raise DataError(
            f"The features that the clusters '{clusters.name}' were made from are no longer in the store: embed and "
            "cluster the pool again."
        )
    check_pool(features, pool, "clusters", clusters.name)
    return _aligned(_records(store, clusters, "clusters", "cluster"), "cluster", pa.array(ids, pa.string()))


def check_vectors(features: Artifact) -> None:
    """Raise `DataError` for features that have no vectors because `curate grade` made them."""
    if features.stage == "grade":
        raise DataError(
            f"The features '{features.name}' were made by curate grade, which reads texts and makes no vectors: give "
            "features made by curate embed."
        )


def check_pool(made: Artifact, pool: Artifact, kind: str, name: str | None = None) -> None:
    """Raise `DataError` unless an artifact was made from this pool."""
    if made.inputs.get("pool") != pool.fingerprint:
        raise DataError(
            f"The {kind} '{name or made.name}' are not of the pool '{pool.name}' as it is now: make them again from "
            "this pool."
        )


def check_comparable(features: Artifact, target: Artifact, on: str) -> None:
    """Raise `DataError` unless the same model measured both with the same options: only then are vectors comparable."""
    problem = f"The features '{features.name}' and the target features '{target.name}' cannot be compared"
    makers = [[made.inputs.get(kind) for kind in ("model", "encoder")] for made in (features, target)]
    if makers[0] != makers[1]:
        first, second = _width(features, on), _width(target, on)
        numbers = "" if first == second else f", and their vectors have {first:,} and {second:,} numbers"
        raise DataError(f"{problem}: different models made them{numbers}. Embed both with one model.")
    with_role = {name for role in (REF, EXTERNAL, NOT_HASHED) for name in EmbedConfig.fields_with(role)}
    may_differ = {"name", "shard_rows", "signals", "trust_remote_code", "turns", *with_role}
    may_differ |= SKETCH_FIELDS if on != "sketch" else set()
    for key in sorted({*features.config, *target.config} - may_differ):
        one, other = features.config.get(key), target.config.get(key)
        if one != other:
            raise DataError(
                f"{problem}: {key} is {one} in one and {other} in the other. Embed both with the same options."
            )
