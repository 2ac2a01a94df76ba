"""The subject of a report: runs over one pool, with the features and clusters of that pool.

Every section of the report gets a `ReportContext`. A section adds notes, and reasons for missing parts, to it.
"""

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
"""Vector columns that a map can show, the preferred one first."""


@dataclass(frozen=True)
class ReportRequest:
    """The options of a report, as in `curate report --help`."""

    runs: tuple[str, ...]
    title: str | None = None
    max_samples: int = 50_000
    features: str | None = None
    clusters: str | None = None
    by: tuple[str, ...] = ()
    method: Literal["pca", "umap"] = "pca"


@dataclass(frozen=True)
class Run:
    """A run of the report.

    Attributes:
        name: the name that the user gave.
        label: the name in the tables. It differs from `name` if a newer artifact took over the name.
        artifact: the run in the store.
    """

    name: str
    label: str
    artifact: Artifact

    def option(self, key: str, unknown: str) -> str:
        """Return an option of the run for a command line, or `unknown`. A URL loses its secrets."""
        return shown(str(self.artifact.config.get(key, unknown)))


@dataclass(frozen=True)
class ReportContext:
    """The data that the sections of a report share.

    Attributes:
        store: the store of the runs.
        reader: the open session that answers SQL.
        request: the options of the report.
        runs: the runs, in the order of the request.
        pool: the pool of all runs.
        pool_label: the name of the pool in the tables.
        features: the requested features of the pool, or the newest with vectors, or the newest; None if there are none.
        clusters: the requested clusters of the pool, or the newest; None if there are none.
        labels: fingerprint -> name in the tables.
        notes: sentences for the reader of the page. Sections add to them.
        missing: section -> the reason why it is missing, and the command that would make it. Sections add to it.
    """

    store: Store
    reader: QuerySession
    request: ReportRequest
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
        """The names of the runs in the tables."""
        return [run.label for run in self.runs]

    def rows(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        """Return the rows of a read-only statement."""
        rows: list[dict[str, Any]] = self.reader.ask(sql, params).to_pylist()
        return rows

    def columns(self, sql: str, **params: Any) -> dict[str, list[Any]]:
        """Return the result of a read-only statement by column. This is faster for many rows."""
        columns: dict[str, list[Any]] = self.reader.ask(sql, params).to_pydict()
        return columns

    def label_of(self, artifact: Artifact | None) -> str:
        """Return the name of an artifact in the tables, or an empty text for None."""
        return self.labels[artifact.fingerprint] if artifact else ""


def report_context(
    store: Store, reader: QuerySession, request: ReportRequest, found: Sequence[Artifact] | None = None
) -> ReportContext:
    """Find the runs, the pool, the features and the clusters of a report.

    Args:
        store: the store of the runs.
        reader: an open session of that store. The page shows the state that the session sees.
        request: the options of the report.
        found: the runs of the request, if the caller has them; None: they are found by name.

    Raises:
        ArtifactNotFound: a run, or the features or clusters, do not exist.
        ConfigError: a run is named twice.
        DataError: the runs are over different pools, or the features or clusters belong to another pool.
    """
    store.require()
    if len(set(request.runs)) < len(request.runs):
        raise ConfigError("A run is named twice: name each run once.")
    labels, artifacts = store.display_names(), store.artifacts()
    if found is None:
        found = [store.get(name, *RUNS) for name in request.runs]
    runs = tuple(Run(name, labels[a.fingerprint], a) for name, a in zip(request.runs, found, strict=True))
    if without_pool := [run.name for run in found if "pool" not in run.inputs]:
        raise DataError(
            f"A script made the run '{without_pool[0]}' without a pool. Give its selection pool='NAME', then run it."
        )
    pool = pool_of(store, found)
    embedded = [a for a in artifacts if a.stage == "embed" and a.inputs.get("pool") == pool.fingerprint]
    fingerprints = {a.fingerprint for a in embedded}
    clustered = [a for a in artifacts if a.stage == "cluster" and a.inputs.get("features") in fingerprints]
    notes = [f"The run {run.name} is not finished. {SO_FAR}" for run in found if run.made_at is None]
    features = _choose(store, request.features, sorted(embedded, key=_drawable), pool, "features", notes)
    clusters = _choose(store, request.clusters, clustered, pool, "clusters", notes)
    return ReportContext(
        store, reader, request, runs, pool, labels[pool.fingerprint], features, clusters, labels, notes
    )


SO_FAR = "The page shows what it had written when the page was made."

MADE_BY = {"features": "embed", "clusters": "cluster"}
"""Option of the report -> stage that makes the artifact."""


def _choose(
    store: Store, name: str | None, known: Sequence[Artifact], pool: Artifact, option: str, notes: list[str]
) -> Artifact | None:
    """Return the requested artifact, or else the last one in `known`. If there are several, add a note."""
    if name is None:
        if len(known) > 1:
            notes.append(
                f"The {option} are {known[-1].name}, the default of {len(known)}. --{option} NAME selects others."
            )
        return known[-1] if known else None
    found = store.get(name, MADE_BY[option])
    if found.fingerprint not in {artifact.fingerprint for artifact in known}:
        raise DataError(f"The {option} '{name}' do not belong to '{pool.name}', the pool of the runs.")
    return found


def _drawable(features: Artifact) -> int:
    """Return the sort key of features for a map: no vectors, then embeddings, then sketches. The sort is stable."""
    column = vectors_of(features)
    return len(VECTORS) - VECTORS.index(column) if column else 0


def vectors_of(features: Artifact) -> str | None:
    """Return the name of the vector column for the map, or None."""
    made = features.config.get("signals", VECTORS)  # older versions had no such option and made all of them
    return next((column for column in VECTORS if column in made), None)


def command(*words: str) -> str:
    """Return a command line of curate that a user can paste into a shell."""
    return shlex.join(["curate", *words])


def embedding(context: ReportContext) -> str:
    """Return the command that makes features of the pool."""
    model = context.runs[0].option("model", "MODEL")
    return command("embed", "--pool", context.pool.name, "--model", model, "--name", "features")
