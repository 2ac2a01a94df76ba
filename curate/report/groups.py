"""What kinds of samples were kept, against chance: by source, cluster, length and labels that the pool carries.

Chance is a draw of as many of each step's candidates as the run kept in that step, all alike. What a group gets then is
a sum of hypergeometric counts, one a step: mean Σ k_t p_t and variance Σ k_t p_t (1 − p_t) (B_t − k_t)/(B_t − 1), with
k_t kept of B_t candidates of which a share p_t is of the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean
from .runs import ReportContext, command, embedding, vectors_of

LENGTHS = 8
"""Bins of length, each with about as many samples."""
SHOWN = 40
"""Groups that are shown one by one; the smaller ones are put together."""
MOST = 200
"""Values of a column that a user may group by."""
NONE = "(none)"
NOTHING = {"offered": 0.0, "kept": 0.0, "mean": 0.0, "variance": 0.0}
PLANTED = ("family", "noise")
"""Columns that are grouped by wherever a pool has them."""

TOKENS = """
SELECT sample_id, coalesce(max(tokens) FILTER (embedded), max(tokens)) AS tokens FROM (
    SELECT f.sample_id, f.tokens, true AS embedded FROM features f WHERE f.features = $features
    UNION ALL SELECT l.sample_id, l.tokens, false FROM ledger l WHERE list_contains($runs, l.run)
) GROUP BY sample_id
"""
"""Tokens of each sample that features were made of, else of each that was offered."""

POOL = "WITH members AS ({members}) SELECT label, count(*) AS samples FROM members GROUP BY label"

PICKED = """
WITH members AS (
    SELECT position, CASE WHEN label IS NULL THEN $none WHEN list_contains($large, label) THEN label ELSE $others END
                     AS label
    FROM ({members})
),
picked AS (
    SELECT run, step, label, count(*)::DOUBLE AS n, count(*) FILTER (kept)::DOUBLE AS k
    FROM ledger JOIN members USING (position) WHERE list_contains($counted, run) GROUP BY run, step, label
),
steps AS (SELECT run, step, sum(n) AS offered, sum(k) AS kept FROM picked GROUP BY run, step)
SELECT run, label, sum(n) AS offered, sum(k) AS kept, sum(steps.kept * n / steps.offered) AS mean,
       sum(CASE WHEN steps.offered > 1
                THEN steps.kept * n / steps.offered * (1 - n / steps.offered) * (steps.offered - steps.kept)
                     / (steps.offered - 1)
                ELSE 0 END) AS variance
FROM picked JOIN steps USING (run, step) GROUP BY run, label
"""


@dataclass(frozen=True)
class Grouping:
    """A way to put the pool's rows in groups.

    Attributes:
        by: what the page calls it.
        title: the same at length.
        members: SQL that gives `position` and `label` of every row; a null label is no group.
        params: of that SQL.
        order: labels in their order, where it is not by size; those not named come after it, by size.
    """

    by: str
    title: str
    members: str
    params: Mapping[str, Any]
    order: Sequence[str] = ()


def groupings(scope: ReportContext) -> list[Grouping]:
    """The ways that this pool can be grouped by, those that the user named last.

    Raises:
        ConfigError: the pool has no column that was named, or it has too many values.
    """
    found = [_by_source(scope), *_by_cluster(scope), *_by_length(scope)]
    taken = {each.by for each in found}
    known = _columns(scope)
    for key in dict.fromkeys([*(key for key in PLANTED if key in known), *scope.wish.by]):
        if key in taken:
            continue
        if key not in known:
            raise ConfigError(
                f"The pool '{scope.pool.name}' has no column '{key}' to group by.{did_you_mean(key, known)}"
            )
        if key in scope.wish.by and known[key] > MOST:
            raise ConfigError(f"--by {key}: it has {known[key]:,} values, and groups are of at most {MOST}.")
        found.append(_by_column(scope, key))
    return found


def _columns(scope: ReportContext) -> dict[str, int]:
    """Columns that the pool's rows have beside the conversation, and how many values each has."""
    rows = scope.ask(
        "SELECT key, count(DISTINCT metadata->>key) AS n FROM "
        "(SELECT metadata, unnest(json_keys(metadata)) AS key FROM samples WHERE pool = $pool) GROUP BY key",
        pool=scope.pool_label,
    )
    return {row["key"]: row["n"] for row in rows}


def _by_column(scope: ReportContext, key: str) -> Grouping:
    empty = "clean" if key == "noise" else None  # planted noise: an empty text says that nothing was planted
    members = (
        "SELECT position, CASE WHEN metadata->>$key = '' THEN $empty ELSE metadata->>$key END AS label "
        "FROM samples WHERE pool = $pool"
    )
    return Grouping(key, key, members, {"pool": scope.pool_label, "key": key, "empty": empty})


def _by_source(scope: ReportContext) -> Grouping:
    """By the labels of ingest; where all rows have one, by their own column `source`, if they have that."""
    sql = (
        "SELECT count(DISTINCT source) AS labels, count(DISTINCT metadata->>'source') AS own "
        "FROM samples WHERE pool = $pool"
    )
    counts = scope.ask(sql, pool=scope.pool_label)[0]
    if counts["labels"] <= 1 and counts["own"] > 1:
        return _by_column(scope, "source")
    members = "SELECT position, nullif(source, '') AS label FROM samples WHERE pool = $pool"
    return Grouping("source", "source", members, {"pool": scope.pool_label})


def _by_cluster(scope: ReportContext) -> list[Grouping]:
    if scope.clusters is None:
        scope.missing["clusters"] = _no_clusters(scope)
        return []
    members = (
        "SELECT s.position, c.cluster::VARCHAR AS label FROM samples s LEFT JOIN "
        "(SELECT sample_id, cluster FROM clusters x WHERE x.clusters = $clusters) c USING (sample_id) "
        "WHERE s.pool = $pool"
    )
    params = {"pool": scope.pool_label, "clusters": scope.label_of(scope.clusters)}
    rows = scope.ask(
        "SELECT DISTINCT cluster FROM clusters x WHERE x.clusters = $clusters AND cluster IS NOT NULL ORDER BY 1",
        clusters=params["clusters"],
    )
    order = [str(row["cluster"]) for row in rows]
    return [Grouping("cluster", f"cluster of {scope.clusters.name}", members, params, order)]


def _no_clusters(scope: ReportContext) -> str:
    column = vectors_of(scope.features) if scope.features else None
    if scope.features is None or column is None:
        before, words = f"{embedding(scope)} && ", ["--features", "features"]
    else:
        before, words = "", ["--features", scope.features.name, "--on", column]
    return f"No clustering of this pool: {before}" + command("cluster", *words, "--k", "50", "--name", "clusters")


def _by_length(scope: ReportContext) -> list[Grouping]:
    params = {"features": scope.label_of(scope.features), "runs": scope.run_labels}
    cuts = [place / LENGTHS for place in range(1, LENGTHS + 1)]
    sql = f"SELECT min(tokens) AS least, quantile_disc(tokens, $cuts) AS upper FROM ({TOKENS})"
    row = scope.ask(sql, cuts=cuts, **params)[0]
    if row["least"] is None:
        scope.missing["length"] = f"No lengths in tokens are known: {embedding(scope)}"
        return []
    order, cases, least = [], [], row["least"]
    for upper in dict.fromkeys(row["upper"]):
        label = f"{least}–{upper} tokens" if upper > least else f"{upper} tokens"
        cases.append(f"WHEN tokens <= {int(upper)} THEN '{label}'")
        order.append(label)
        least = upper + 1
    members = (
        f"SELECT s.position, CASE {' '.join(cases)} END AS label FROM samples s LEFT JOIN ({TOKENS}) t "
        "USING (sample_id) WHERE s.pool = $pool"
    )
    return [Grouping("length", "length in tokens", members, {"pool": scope.pool_label, **params}, order)]


def groups(scope: ReportContext, ways: Sequence[Grouping]) -> list[dict[str, Any]]:
    """What was kept by each grouping, as shares, beside the pool, what was offered, and where chance would lie.

    Rows count: of the pool, and of the ledger. Cost: a pass over the ledger each.
    """
    return [_group(scope, way) for way in ways]


def _group(scope: ReportContext, way: Grouping) -> dict[str, Any]:
    sizes = {row["label"]: row["samples"] for row in scope.ask(POOL.format(members=way.members), **way.params)}
    large, others = _shown(sizes, way)
    more = len(sizes) - (None in sizes) > len(large)
    labels = [*large, *([others] if more else []), *([NONE] if None in sizes else [])]
    pool = dict.fromkeys(labels, 0)
    for label, size in sizes.items():
        pool[NONE if label is None else label if label in pool else others] += size
    told = {"large": large, "others": others, "none": NONE}
    rows = scope.ask(PICKED.format(members=way.members), counted=scope.run_labels, **told, **way.params)
    lines = []
    for run in scope.run_labels:
        own = {row["label"]: row for row in rows if row["run"] == run}
        lines.append(_against_chance([own.get(label, NOTHING) for label in labels]))
    return {
        "by": way.by,
        "title": way.title,
        "labels": labels,
        "pool": _shares(list(pool.values())),
        **{part: [line[part] for line in lines] for part in ("offered", "chance", "kept", "low", "high")},
    }


def _shown(sizes: Mapping[str | None, int], way: Grouping) -> tuple[list[str], str]:
    """The labels to show one by one, in their order, and what the others together are called."""
    by_size = sorted((label for label in sizes if label is not None), key=lambda label: (-sizes[label], label))
    large = by_size[:SHOWN] if len(by_size) > SHOWN + 1 else by_size
    places = {label: place for place, label in enumerate(way.order)}
    large.sort(key=lambda label: places.get(label, len(places)))  # stable: those without a place stay by size
    return large, f"({len(by_size) - len(large)} others)"


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _against_chance(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Shares of the kept, and the 95 % interval of chance. `chance` is the mean of that draw: where all steps keep the
    same share it is the share among the candidates."""
    total = sum(row["kept"] for row in rows) or 1.0
    ends = [interval(row["mean"], row["variance"]) for row in rows]
    return {
        "offered": _shares([row["offered"] for row in rows]),
        "kept": _shares([row["kept"] for row in rows]),
        "chance": _shares([row["mean"] for row in rows]),
        "low": [low / total for low, _ in ends],
        "high": [high / total for _, high in ends],
    }


def interval(mean: float, variance: float) -> tuple[float, float]:
    """Counts that a sum of hypergeometric counts of this mean and variance lies between, with 95 %.

    The 2.5 % and 97.5 % quantiles of the binomial with the same mean and, but for its n being whole, variance. Such a
    sum is one of independent Bernoulli variables (Vatutin & Mikhailov 1982), so its variance is below its mean and
    there is such a binomial. It is close where a normal distribution is not: at counts near 0.
    """
    if mean <= 0:
        return 0.0, 0.0
    if variance <= 1e-9 * mean:
        return mean, mean
    from scipy.stats import binom

    n = max(round(mean * mean / max(mean - variance, 1e-12)), 1, -int(-mean // 1))
    low, high = binom.ppf([0.025, 0.975], n, min(mean / n, 1.0))
    return float(low), float(high)
