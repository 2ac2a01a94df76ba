"""Check whether a model was, or will be, trained on rows that hold held-out rows.

`curate evaluate` and `curate compare` warn of it, and `--strict` makes it an error. Only questions that are the same or
contained are looked for, so the check takes about 0.35 ms of processor time for a row of either pool. What else may be
a leak is found by `curate decontaminate`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from ...errors import DataError
from ...log import LOGGER
from ...runtime.terminal import cell
from ...store import Artifact, Store
from ..inputs import RUNS
from ..tokens.turns import conversations_of
from .leaks import VERBATIM, find_leaks
from .rows import held_rows, pool_rows

LONG = 5.0
"""Seconds from which on a log says what the check took."""

_told: set[str] = set()


@dataclass(frozen=True)
class Contact:
    """Rows of a pool that hold held-out rows.

    Attributes:
        pool: name of the pool.
        held: name of the held-out pool.
        rows: number of such rows of the pool.
        held_rows: number of held-out rows in them.
        of_held_rows: number of all held-out rows.
        first: sample ids of the first pair; empty if there is none.
    """

    pool: str
    held: str
    rows: int
    held_rows: int
    of_held_rows: int
    first: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Count of the rows, and the command that leaves them out."""
        same = "" if self.pool != self.held else ", which is the pool itself"
        remedy = f"Leave them out: curate decontaminate --pool {self.pool} --against {self.held} --name NAME"
        if same:
            remedy = (
                f"Hold rows out: curate split --pool {self.pool} --shares train=0.9,held=0.1 --part held --name NAME"
            )
        example = f" (first {cell(self.first[0])} has {cell(self.first[1])})" if self.first else ""
        return (
            f"{self.rows} rows of '{self.pool}' hold {self.held_rows} of the {self.of_held_rows} rows of "
            f"'{self.held}'{same}{example}: a measurement on them says too little of new text. {remedy}."
        )


def contact(
    pool: Artifact, held: Artifact, sample_ids: Collection[str] | None = None, held_ids: Collection[str] | None = None
) -> Contact:
    """Return how many rows of a pool hold rows of a held-out pool.

    How rare words are is counted over the whole pool, so the answer for a row does not depend on the other ids.

    Args:
        pool: the pool that a model is trained on.
        held: the held-out pool.
        sample_ids: conversations of the pool that it is trained on; None for all.
        held_ids: conversations of the held-out pool that are measured; None for all.
    """
    if pool.fingerprint == held.fingerprint:
        measured = [row.sample_id for row in pool_rows(held, held_ids)]
        trained = set(measured) if sample_ids is None else set(measured) & set(sample_ids)
        ids = [sample_id for sample_id in measured if sample_id in trained]
        first = (ids[0], ids[0]) if ids else ()
        return Contact(pool.name, held.name, len(ids), len(set(ids)), len(measured), first)
    start = time.monotonic()
    rows = [row for row in held_rows(held) if held_ids is None or row.row.sample_id in held_ids]
    leaks = find_leaks(lambda: pool_rows(pool), rows, VERBATIM, cheap=True)
    if sample_ids is not None:
        leaks = [leak for leak in leaks if leak.row.sample_id in sample_ids]
    seconds = time.monotonic() - start
    if seconds >= LONG:
        LOGGER.info(f"Compared '{pool.name}' with {len(rows)} rows of '{held.name}' in {seconds:.1f} s.")
    first = (leaks[0].row.sample_id, rows[leaks[0].held].row.sample_id) if leaks else ()
    touched = {leak.row.position for leak in leaks}
    return Contact(pool.name, held.name, len(touched), len({leak.held for leak in leaks}), len(rows), first)


def trained_on(store: Store, model: str, held: Artifact, held_ids: Collection[str] | None = None) -> list[Contact]:
    """Return how many rows that the runs behind a model kept hold held-out rows, one entry for each pool with some.

    Args:
        store: the store of the runs.
        model: fingerprint of the model; one that no run of the store made gives no entry.
        held: the held-out pool.
        held_ids: conversations of it that are measured; None for all.
    """
    known = {artifact.fingerprint: artifact for artifact in store.artifacts()}
    kept: dict[str, set[str]] = {}
    seen: set[str] = set()
    while (maker := known.get(model)) is not None and model not in seen:
        seen.add(model)
        for role in ("pool", "replay") if maker.stage in RUNS else ():
            if maker.inputs.get(role) in known:
                kept.setdefault(maker.inputs[role], set()).update(_kept_by(store, maker, replayed=role == "replay"))
        model = maker.inputs.get("model", "")
    found = [contact(known[pool], held, ids, held_ids) for pool, ids in kept.items() if ids]
    return [each for each in found if each.rows]


def _kept_by(store: Store, run: Artifact, *, replayed: bool) -> set[str]:
    """Return the ids of the conversations that a run trained on: those of its pool, or those that it replayed."""
    rows = store.query(
        "SELECT DISTINCT sample_id FROM ledger WHERE run = $name AND kept "
        "AND (coalesce(stage, '') = 'replay') = $replayed",
        {"name": store.display_names()[run.fingerprint], "replayed": replayed},
    )
    return set(conversations_of(store, run, rows["sample_id"].to_pylist()))


def report(found: Collection[Contact], *, strict: bool) -> None:
    """Warn of each contact, once in a process; with `strict` raise `DataError` for the first one."""
    for each in found:
        if strict:
            raise DataError(f"{each.sentence} Without --strict this is a warning.")
        if each.sentence not in _told:
            _told.add(each.sentence)
            LOGGER.warning(each.sentence)
