"""Name the clusters by the prompts of their samples, as records and for the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...log import LOGGER
from ...store import Artifact, Store
from .config import ClusterConfig
from .prompts import prompts_of
from .ranked import Assigned, Ranked
from .titles import Title, titles_of
from .words import READ_CHARACTERS

SHOWN_CLUSTERS = 10
SHOWN_CHARACTERS = 60
READ_SAMPLES = 100_000
"""Largest number of prompts that titles are made from."""


@dataclass(frozen=True)
class Named:
    """Titles of the clusters, and prompts of samples.

    Attributes:
        titles: title of each cluster; None if the pool is gone.
        prompts: sample id -> prompt, of the samples that were read.
    """

    titles: Sequence[Title] | None
    prompts: Mapping[str, str]


def name_clusters(config: ClusterConfig, pool: Artifact | None, found: Assigned, ranked: Ranked) -> Named:
    """Read the prompts of all samples, or of `READ_SAMPLES` spread over the clusters, and name the clusters by them."""
    if pool is None:
        LOGGER.warning("The clusters get no titles, and the summary shows sample ids: the pool is not in the store.")
        return Named(None, {})
    quota = max(READ_SAMPLES // config.k, 1) if len(found.ids) > READ_SAMPLES else len(found.ids)
    sizes = np.maximum(ranked.sizes[ranked.labels], quota)
    chosen = ranked.ranks * quota // sizes > (ranked.ranks - 1) * quota // sizes
    shown = (ranked.labels < SHOWN_CLUSTERS) & (ranked.ranks <= config.representatives)
    prompts = prompts_of(pool, found.ids.filter(pa.array(chosen | shown)).to_pylist(), READ_CHARACTERS)
    ids = found.ids.filter(pa.array(chosen)).to_pylist()
    titles = titles_of([prompts.get(each, "") for each in ids], ranked.labels[chosen], ranked.sizes)
    return Named(titles, prompts)


def title_records(found: Assigned, ranked: Ranked, titles: Sequence[Title] | None) -> pa.Table:
    """Build the records of the table `cluster_titles`, one per cluster."""
    first = np.flatnonzero(ranked.ranks == 1)
    representatives: list[str | None] = [None] * len(ranked.sizes)
    for cluster, sample_id in zip(ranked.labels[first].tolist(), found.ids.take(pa.array(first)), strict=True):
        representatives[cluster] = sample_id.as_py()
    unknown: list[None] = [None] * len(ranked.sizes)
    return pa.table(
        {
            "cluster": pa.array(np.arange(len(ranked.sizes)), pa.int32()),
            "size": pa.array(ranked.sizes, pa.int64()),
            "title": pa.array(unknown if titles is None else [title.text for title in titles], pa.string()),
            "keywords": pa.array(
                unknown if titles is None else [title.keywords for title in titles], pa.list_(pa.string())
            ),
            "representative_id": pa.array(representatives, pa.string()),
        }
    )


def largest(config: ClusterConfig, found: Assigned, ranked: Ranked, named: Named) -> list[dict[str, Any]]:
    """Describe the largest clusters: size, title, and the first words of the representatives."""
    rows = np.flatnonzero((ranked.labels < SHOWN_CLUSTERS) & (ranked.ranks <= config.representatives))
    rows = rows[np.lexsort((ranked.ranks[rows], ranked.labels[rows]))]
    ids = found.ids.take(pa.array(rows)).to_pylist()
    texts = {key: _beginning(text) for key, text in named.prompts.items()}
    shown: list[dict[str, Any]] = [
        {"cluster": cluster, "size": int(size)} for cluster, size in enumerate(ranked.sizes[:SHOWN_CLUSTERS])
    ]
    for row, title in zip(shown, named.titles or (), strict=False):
        row["title"] = title.text
    representatives: list[list[str]] = [[] for _ in shown]
    for label, sample_id in zip(ranked.labels[rows], ids, strict=True):
        representatives[label].append(texts.get(sample_id, sample_id))
    return [{**row, "representatives": " | ".join(own)} for row, own in zip(shown, representatives, strict=True)]


def _beginning(text: str) -> str:
    """Return the first words of a text, on one line."""
    line = " ".join(text[: 2 * SHOWN_CHARACTERS].split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"


def pool_of_features(store: Store, features: Artifact) -> Artifact | None:
    """Return the pool of the features, or None if it is gone."""
    wanted = features.inputs.get("pool")
    return next((artifact for artifact in store.artifacts() if artifact.fingerprint == wanted), None)
