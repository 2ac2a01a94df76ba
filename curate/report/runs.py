"""What a report is of: runs over one pool, and what else the store has of that pool."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError, DataError
from ..formats.locations import shown
from ..stages.inputs import RUNS
from ..stages.pools import pool_of
from ..store import Artifact, Store
from ..store.catalog.session import QuerySession

VECTORS = ("sketch", "embedding")
"""Vector columns that a map can be drawn by, the better first."""


@dataclass(frozen=True)
class ReportRequest:
    """What was asked for; see `curate report --help`."""

    runs: tuple[str, ...]
    title: str | None = None
    max_samples: int = 50_000
    features: str | None = None
    clusters: str | None = None
    by: tuple[str, ...] = ()
    method: Literal["pca", "umap"] = "pca"


@dataclass(frozen=True)
class Run:
    """A run: as the user calls it, as the tables call it (they may know it by a second name), and itself."""

    name: str
    label: str
    artifact: Artifact

    def option(self, key: str, unknown: str) -> str:
        """A value of its config, for a command line; a URL without what is secret in it."""
        return shown(str(self.artifact.config.get(key, unknown)))


@dataclass(frozen=True)
class ReportContext:
    """The runs, their pool, and what is known of it.

    Attributes:
        pool_label: what the tables call the pool.
        reader: answers SQL.
        features: of the pool: those asked for, or the newest that a map can be drawn by, or the newest; None where
            there are none.
        clusters: of the pool: those asked for, or the newest; None where there are none.
        labels: fingerprint -> what the tables call it.
        notes: what the reader has to know; sections add to it.
        missing: section -> why it is not there, and the command that would make it; sections add to it.
    """

    store: Store
    reader: QuerySession
    wish: ReportRequest
    runs: tuple[Run, ...]
    pool: Artifact
    pool_label: str
    features: Artifact | None
    clusters: Artifact | None
    labels: dict[str, str]
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def run_labels(self) -> list[str]:
        """The runs, as the tables call them."""
        return [run.label for run in self.runs]

    def ask(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        """Rows of a read-only statement."""
        rows: list[dict[str, Any]] = self.reader.ask(sql, params).to_pylist()
        return rows

    def columns(self, sql: str, **params: Any) -> dict[str, list[Any]]:
        """The same as columns, for many rows."""
        columns: dict[str, list[Any]] = self.reader.ask(sql, params).to_pydict()
        return columns

    def label_of(self, artifact: Artifact | None) -> str:
        """What the tables call it; nothing is called ''."""
        return self.labels[artifact.fingerprint] if artifact else ""


def report_context(store: Store, reader: QuerySession, wish: ReportRequest) -> ReportContext:
    """Find what was asked for.

    Args:
        store: where it is.
        reader: of that store; the page is of the state that it sees.
        wish: what was asked for.

    Raises:
        ArtifactNotFound: there is no such run, or no such features or clusters.
        ConfigError: a run is named twice.
        DataError: the runs are over several pools, or features or clusters are of another one.
    """
    store.require()
    if len(set(wish.runs)) < len(wish.runs):
        raise ConfigError("A run is named twice: name each run once.")
    labels, everything = store.display_names(), store.artifacts()
    found = [store.get(name, *RUNS) for name in wish.runs]
    runs = tuple(Run(name, labels[a.fingerprint], a) for name, a in zip(wish.runs, found, strict=True))
    if nameless := [run.name for run in found if "pool" not in run.inputs]:
        raise DataError(f"The run '{nameless[0]}' is a script's that named no pool: give its selection pool='NAME'.")
    pool = pool_of(store, found)
    embedded = [a for a in everything if a.stage == "embed" and a.inputs.get("pool") == pool.fingerprint]
    marks = {a.fingerprint for a in embedded}
    clustered = [a for a in everything if a.stage == "cluster" and a.inputs.get("features") in marks]
    notes: list[str] = []
    features = _choose(store, wish.features, sorted(embedded, key=_drawable), pool, "features", notes)
    clusters = _choose(store, wish.clusters, clustered, pool, "clusters", notes)
    return ReportContext(store, reader, wish, runs, pool, labels[pool.fingerprint], features, clusters, labels, notes)


MADE_BY = {"features": "embed", "clusters": "cluster"}


def _choose(
    store: Store, name: str | None, known: Sequence[Artifact], pool: Artifact, option: str, notes: list[str]
) -> Artifact | None:
    """What was asked for, or the last of what is known of the pool; then, among several, a note says which."""
    if name is None:
        if len(known) > 1:
            notes.append(f"The {option} are {known[-1].name}, of {len(known)} there are; --{option} NAME takes others.")
        return known[-1] if known else None
    found = store.get(name, MADE_BY[option])
    if found.fingerprint not in {artifact.fingerprint for artifact in known}:
        raise DataError(f"The {option} '{name}' are not of the pool '{pool.name}' that the runs are over.")
    return found


def _drawable(features: Artifact) -> int:
    """For sorting (which keeps the older first): no vectors, then embeddings, then sketches."""
    column = vectors_of(features)
    return len(VECTORS) - VECTORS.index(column) if column else 0


def vectors_of(features: Artifact) -> str | None:
    """The vector column to draw by, or None."""
    made = features.config.get("signals", VECTORS)  # before they could be chosen, all were made
    return next((column for column in VECTORS if column in made), None)


def command(*words: str) -> str:
    """A command line that can be pasted."""
    return shlex.join(["curate", *words])


def embedding(scope: ReportContext) -> str:
    """The command that makes features of the pool."""
    model = scope.runs[0].option("model", "MODEL")
    return command("embed", "--pool", scope.pool.name, "--model", model, "--name", "features")
