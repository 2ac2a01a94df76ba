"""What must hold of any file: nothing crashes, nothing is lost or changed in silence, good rows are as they were."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from curate.errors import CurateError, DataError
from curate.formats import EXPORT_FORMATS
from curate.formats.locations import printable
from curate.samples import to_json
from curate.stages import make
from curate.stages.pools import pool_samples
from curate.store import Artifact, Store

from .files import Batch, batch


@dataclass
class Tally:
    """What came of it.

    Attributes:
        counts: rows and files, by what became of them.
        reasons: rows that were refused, by reason.
        errors: files that were refused, by the beginning of the sentence.
        broken_laws: a line for every crash and every silent change.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    broken_laws: list[str] = field(default_factory=list)

    def breaks(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.broken_laws.append(f"{kind}: {what}")

    def __iadd__(self, other: Tally) -> Tally:
        self.counts += other.counts
        self.reasons += other.reasons
        self.errors += other.errors
        self.broken_laws += other.broken_laws
        return self


def check_file(seed: str, folder: Path, count: int, *, exports: bool) -> Tally:
    """Make a file from a seed, ingest it, and hold what comes of it to the laws."""
    rng, tally = Random(seed), Tally()
    folder.mkdir()
    made = batch(rng, folder, count)
    tally.counts["files"] += 1
    tally.counts["rows"] += made.rows or 0
    store = Store(folder / "store")
    try:
        pool = make(store, "ingest", data=[f"odd={made.path}"], name="pool", shard_rows=rng.choice([7, 10_000]))
    except CurateError as error:
        _refused(tally, made, error, seed)
        return tally
    except Exception as error:
        tally.breaks("crashes", f"{seed} {made.format}: {type(error).__name__}: {str(error)[:200]}")
        return tally
    try:
        _ingested(tally, made, store, pool, seed)
    except Exception as error:
        tally.breaks("crashes", f"{seed} {made.format} read back: {type(error).__name__}: {str(error)[:200]}")
        return tally
    if exports and pool.rows:
        for form in rng.sample(EXPORT_FORMATS, 2):
            _round_trip(tally, store, pool, form, rng.choice(["hf", "jsonl", "parquet"]), f"{seed} {made.format}")
    return tally


def _refused(tally: Tally, made: Batch, error: CurateError, seed: str) -> None:
    tally.counts["files refused"] += 1
    tally.errors[_kind_of(str(error), made.path)] += 1
    if made.good:
        tally.breaks("silent changes", f"{seed} {made.format}: good rows refused with the file: {error}")
    if printable(made.path.name) not in str(error):
        tally.breaks("nameless errors", f"{seed} {made.format}: {error}")


def _kind_of(text: str, path: Path) -> str:
    return text.replace(str(path), "FILE").replace(str(path.parent), "FOLDER")[:60]


def _ingested(tally: Tally, made: Batch, store: Store, pool: Artifact, seed: str) -> None:
    rejects = store.query('SELECT file, "row", reason FROM rejects').to_pylist()
    samples = [sample for _, sample in pool_samples(pool)]
    tally.counts["rows ingested"] += len(samples)
    tally.counts["rows refused"] += len(rejects)
    tally.reasons.update(reject["reason"] for reject in rejects)
    where = f"{seed} {made.format}"
    if made.rows is not None and len(samples) + len(rejects) != made.rows:
        tally.breaks("silent changes", f"{where}: {made.rows} rows, {len(samples)} taken, {len(rejects)} refused")
    if any(not reject["row"] or not reject["reason"] or not reject["file"] for reject in rejects):
        tally.breaks("silent changes", f"{where}: refused without file, row or reason")
    came = [sample.original for sample in samples]
    ids = {row["id"] for row in made.good}
    there = [row for row in came if isinstance(row.get("id"), str) and row["id"] in ids]
    kept = [{key: row.get(key) for key in good} for row, good in zip(there, made.good, strict=False)]
    if kept != made.good:
        tally.breaks("silent changes", f"{where}: good rows are lost or changed")
    if made.held and made.rows is not None:
        out = {reject["row"] for reject in rejects}
        left = [number for number in range(1, made.rows + 1) if number not in out]
        for number, row in zip(left, came, strict=False):
            if number in made.held and not same(row, made.held[number]):
                tally.breaks("silent changes", f"{where}: row {number} came in changed")
    _asked(tally, store, samples, where)


def _asked(tally: Tally, store: Store, samples: list[Any], where: str) -> None:
    """SQL finds every sample and reads its metadata."""
    sql = "SELECT sample_id, metadata, metadata->>'id' AS id FROM samples ORDER BY position"
    try:
        rows = store.query(sql).to_pylist()
    except CurateError as error:
        tally.breaks("crashes", f"{where}: {error}")
        return
    if [row["sample_id"] for row in rows] != [sample.sample_id for sample in samples]:
        tally.breaks("silent changes", f"{where}: SQL sees other samples")
    for row, sample in zip(rows, samples, strict=True):
        metadata = json.loads(row["metadata"])
        original = {key: json.loads(to_json(sample.original[key])) for key in metadata}
        if not all(same(_sorted(metadata[key]), _sorted(original[key])) for key in metadata):
            tally.breaks("silent changes", f"{where}: SQL sees other metadata")
        if isinstance(sample.original.get("id"), str) and "id" in metadata and row["id"] != sample.original["id"]:
            tally.breaks("silent changes", f"{where}: SQL sees another id: {row['id']!r}")


def _round_trip(tally: Tally, store: Store, pool: Artifact, form: str, kind: str, where: str) -> None:
    """What is exported and read again are the same conversations; as they came, the same rows."""
    to = str(store.root.parent / f"out-{form}-{kind}")
    tally.counts["exports"] += 1
    sql = "SELECT sample_id FROM samples WHERE pool = 'pool' ORDER BY position"
    try:
        make(store, "export", sql=sql, pool="pool", format=form, file_format=kind, to=to, name=f"x-{form}-{kind}")
    except DataError as error:
        tally.counts["exports refused"] += 1
        tally.errors["export: " + str(error).split("'")[0][:40]] += 1
        return
    except Exception as error:
        tally.breaks("crashes", f"{where} export {form} {kind}: {type(error).__name__}: {str(error)[:200]}")
        return
    first: dict[str, Any] = {}
    for _, sample in pool_samples(pool):
        first.setdefault(sample.sample_id, sample.original)
    try:
        again = make(store, "ingest", data=[to], name="again")
    except Exception as error:
        tally.breaks("crashes", f"{where} export {form} {kind} read again: {type(error).__name__}: {str(error)[:200]}")
        return
    back = [sample for _, sample in pool_samples(again)]
    if [sample.sample_id for sample in back] != list(first):
        tally.breaks("silent changes", f"{where}: {form} as {kind} holds other conversations")
    elif form == "original":
        for sample, original in zip(back, first.values(), strict=True):
            if not same(_dense(sample.original), _dense(original)):
                tally.breaks(
                    "silent changes", f"{where}: original as {kind}: {original} became {sample.original}"[:400]
                )
                break


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _dense(value: Any) -> Any:
    """Without nulls in mappings: tables give every row the columns of all the others."""
    if isinstance(value, Mapping):
        return {key: _dense(item) for key, item in value.items() if item is not None}
    return [_dense(item) for item in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Equal as JSON is: NaN is NaN, and 1.0 is 1."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (type(one) is type(other) and bool(one == other)) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other
    )
