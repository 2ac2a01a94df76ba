"""The kept samples by group (source, cluster, length, columns of the pool), compared with a random choice.

The random choice draws in each step as many candidates as the run kept in that step, all with the same probability. The
count of a group is then a sum of hypergeometric counts, one per step. Its mean is Σ k_t p_t and its variance is
Σ k_t p_t (1 − p_t) (B_t − k_t)/(B_t − 1), where step t keeps k_t of B_t candidates and p_t is the group's share of the
candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean
from .runs import ReportContext, command, embedding, vectors_of

LENGTHS = 8
"""Number of length groups. They have about the same number of samples."""
SHOWN = 40
"""Largest number of groups that are shown one by one. The smaller groups are merged into one."""
MOST = 200
"""Largest number of values of a column in `--by`."""
NONE = "(none)"
"""Label of the samples without a group."""
NOTHING = {"offered": 0.0, "kept": 0.0, "mean": 0.0, "variance": 0.0}
PLANTED = ("family", "noise")
"""Columns that the report always groups by, if the pool has them."""

TOKENS = """
SELECT sample_id, coalesce(max(tokens) FILTER (embedded), max(tokens)) AS tokens FROM (
    SELECT f.sample_id, f.tokens, true AS embedded FROM features f WHERE f.features = $features
    UNION ALL SELECT l.sample_id, l.tokens, false FROM ledger l WHERE list_contains($runs, l.run)
) GROUP BY sample_id
"""
"""SQL for the tokens of each sample: from the features if the sample has any, else from the ledger."""

POOL = "WITH members AS ({members}) SELECT label, count(*) AS samples FROM members GROUP BY label"

SAMPLES = """
SELECT s.position, coalesce(a.sample_id, s.sample_id) AS sample_id, {label} AS label FROM samples s
LEFT JOIN (SELECT DISTINCT sample_id, conversation_id FROM turn_samples WHERE list_contains($runs, artifact)) a
    ON a.conversation_id = s.sample_id
LEFT JOIN ({values}) own ON own.sample_id = coalesce(a.sample_id, s.sample_id)
LEFT JOIN ({values}) whole ON whole.sample_id = s.sample_id
WHERE s.pool = $pool
"""
"""SQL for the members of a grouping by a value of samples: one row per answer where the runs split conversations."""

CLUSTERS = """
SELECT cluster, c.cluster::VARCHAR || coalesce(' · ' || t.title, '') AS label
FROM (SELECT DISTINCT cluster FROM clusters y WHERE y.clusters = $clusters AND cluster IS NOT NULL) c
LEFT JOIN (SELECT cluster, left(any_value(title), 80) AS title FROM cluster_titles z
           WHERE z.clusters = $clusters GROUP BY cluster) t USING (cluster)
"""
"""SQL for the names of clusters: number and title, or the number alone where an older curate made the clustering."""

COUNTS = """
WITH members AS (
    SELECT position, sample_id,
           CASE WHEN label IS NULL THEN $none WHEN list_contains($large, label) THEN label ELSE $others END AS label
    FROM ({members})
),
counts AS (
    SELECT run, step, label, count(*)::DOUBLE AS n, count(*) FILTER (kept)::DOUBLE AS k
    FROM ledger l JOIN members m ON m.position = l.position AND (m.sample_id IS NULL OR m.sample_id = l.sample_id)
    WHERE list_contains($counted, run) GROUP BY run, step, label
),
steps AS (SELECT run, step, sum(n) AS offered, sum(k) AS kept FROM counts GROUP BY run, step)
SELECT run, label, sum(n) AS offered, sum(k) AS kept, sum(steps.kept * n / steps.offered) AS mean,
       sum(CASE WHEN steps.offered > 1
                THEN steps.kept * n / steps.offered * (1 - n / steps.offered) * (steps.offered - steps.kept)
                     / (steps.offered - 1)
                ELSE 0 END) AS variance
FROM counts JOIN steps USING (run, step) GROUP BY run, label
"""


@dataclass(frozen=True)
class Grouping:
    """A way to group the rows of the pool.

    Attributes:
        by: the short name of the grouping on the page.
        title: the full name of the grouping on the page.
        members: SQL that returns `position`, `sample_id` and `label` of every row, or of every sample of a row.
            `sample_id` is null if the label holds for all samples of the row. A null label is no group.
        params: the parameters of that SQL.
        order: the labels in the order in which the page shows them. Labels that are missing here follow by size.
    """

    by: str
    title: str
    members: str
    params: Mapping[str, Any]
    order: Sequence[str] = ()


def groupings(context: ReportContext) -> list[Grouping]:
    """Return the groupings of this pool. Those that the user requested come last.

    Raises:
        ConfigError: the pool does not have a requested column, or the column has too many values.
    """
    found = [by_source(context), *by_cluster(context), *_by_length(context)]
    used = {each.by for each in found}
    known = _columns(context)
    for key in dict.fromkeys([*(key for key in PLANTED if key in known), *context.request.by]):
        if key in used:
            continue
        if key not in known:
            raise ConfigError(
                f"The pool '{context.pool.name}' has no column '{key}' to group by.{did_you_mean(key, known)}"
            )
        if key in context.request.by and known[key] > MOST:
            raise ConfigError(
                f"--by {key}: the column has {known[key]:,} values, but at most {MOST} can be grouped by."
            )
        found.append(_by_column(context, key))
    return found


def _columns(context: ReportContext) -> dict[str, int]:
    """Return the columns that the pool has in addition to the conversation, with the number of values of each."""
    rows = context.rows(
        "SELECT key, count(DISTINCT metadata->>key) AS n FROM "
        "(SELECT metadata, unnest(json_keys(metadata)) AS key FROM samples WHERE pool = $pool) GROUP BY key",
        pool=context.pool_label,
    )
    return {row["key"]: row["n"] for row in rows}


def _by_column(context: ReportContext, key: str) -> Grouping:
    empty = "clean" if key == "noise" else None  # the demo pool leaves `noise` empty where it planted none
    members = (
        "SELECT position, NULL AS sample_id, "
        "CASE WHEN metadata->>$key = '' THEN $empty ELSE metadata->>$key END AS label "
        "FROM samples WHERE pool = $pool"
    )
    return Grouping(key, key, members, {"pool": context.pool_label, "key": key, "empty": empty})


def by_source(context: ReportContext) -> Grouping:
    """Return the grouping by the source labels of `curate ingest`, or by the column `source`, if that has more."""
    sql = (
        "SELECT count(DISTINCT source) AS labels, count(DISTINCT metadata->>'source') AS own "
        "FROM samples WHERE pool = $pool"
    )
    counts = context.rows(sql, pool=context.pool_label)[0]
    if counts["labels"] <= 1 and counts["own"] > 1:
        return _by_column(context, "source")
    members = "SELECT position, NULL AS sample_id, nullif(source, '') AS label FROM samples WHERE pool = $pool"
    return Grouping("source", "source", members, {"pool": context.pool_label})


def by_cluster(context: ReportContext) -> list[Grouping]:
    """Return the grouping by cluster; none, and the reason in `missing`, if the pool has no clusters."""
    if context.clusters is None:
        context.missing["clusters"] = _no_clusters(context)
        return []
    members = SAMPLES.format(
        label="coalesce(own.label, whole.label)",
        values=f"SELECT sample_id, label FROM clusters x JOIN ({CLUSTERS}) USING (cluster) "
        "WHERE x.clusters = $clusters",
    )
    label = context.label_of(context.clusters)
    params = {"pool": context.pool_label, "clusters": label, "runs": context.run_labels}
    order = [row["label"] for row in context.rows(f"{CLUSTERS} ORDER BY cluster", clusters=label)]
    return [Grouping("cluster", f"cluster of {context.clusters.name}", members, params, order)]


def _no_clusters(context: ReportContext) -> str:
    column = vectors_of(context.features) if context.features else None
    if context.features is None or column is None:
        before, words = f"{embedding(context)} && ", ["--features", "features"]
    else:
        before, words = "", ["--features", context.features.name, "--on", column]
    return f"There are no clusters of this pool: {before}" + command(
        "cluster", *words, "--k", "50", "--name", "clusters"
    )


def _by_length(context: ReportContext) -> list[Grouping]:
    params = {"features": context.label_of(context.features), "runs": context.run_labels}
    cuts = [number / LENGTHS for number in range(1, LENGTHS + 1)]
    sql = f"SELECT min(tokens) AS least, quantile_disc(tokens, $cuts) AS upper FROM ({TOKENS})"
    row = context.rows(sql, cuts=cuts, **params)[0]
    if row["least"] is None:
        context.missing["length"] = f"The lengths in tokens are unknown: {embedding(context)}"
        return []
    order, cases, least = [], [], row["least"]
    for upper in dict.fromkeys(row["upper"]):
        label = f"{least}–{upper} tokens" if upper > least else f"{upper} tokens"
        cases.append(f"WHEN coalesce(own.tokens, whole.tokens) <= {int(upper)} THEN '{label}'")
        order.append(label)
        least = upper + 1
    members = SAMPLES.format(label=f"CASE {' '.join(cases)} END", values=TOKENS)
    return [Grouping("length", "length in tokens", members, {"pool": context.pool_label, **params}, order)]


def groups(context: ReportContext, by: Sequence[Grouping]) -> list[dict[str, Any]]:
    """Return for each grouping the shares of its groups: in the pool, offered, kept, and kept by a random choice.

    The counts are of rows, of the pool and of the ledger. Each grouping costs one pass over the ledger.
    """
    return [_group(context, grouping) for grouping in by]


def _group(context: ReportContext, grouping: Grouping) -> dict[str, Any]:
    sizes = {
        row["label"]: row["samples"] for row in context.rows(POOL.format(members=grouping.members), **grouping.params)
    }
    large, others = shown_labels(sizes, grouping)
    more = len(sizes) - (None in sizes) > len(large)
    labels = [*large, *([others] if more else []), *([NONE] if None in sizes else [])]
    pool = dict.fromkeys(labels, 0)
    for label, size in sizes.items():
        pool[NONE if label is None else label if label in pool else others] += size
    names = {"large": large, "others": others, "none": NONE}
    sql = COUNTS.format(members=grouping.members)
    rows = context.rows(sql, counted=context.run_labels, **names, **grouping.params)
    lines = []
    for run in context.run_labels:
        own = {row["label"]: row for row in rows if row["run"] == run}
        lines.append(against_chance([own.get(label, NOTHING) for label in labels]))
    return {
        "by": grouping.by,
        "title": grouping.title,
        "labels": labels,
        "pool": shares(list(pool.values())),
        **{part: [line[part] for line in lines] for part in ("offered", "chance", "kept", "low", "high")},
    }


def shown_labels(sizes: Mapping[str | None, int], grouping: Grouping) -> tuple[list[str], str]:
    """Return the labels to show one by one, in their order, and the label of all other groups together."""
    by_size = sorted((label for label in sizes if label is not None), key=lambda label: (-sizes[label], label))
    large = by_size[:SHOWN] if len(by_size) > SHOWN + 1 else by_size
    ranks = {label: number for number, label in enumerate(grouping.order)}
    large.sort(key=lambda label: ranks.get(label, len(ranks)))  # stable: labels that are not in `order` stay by size
    return large, f"({len(by_size) - len(large)} others)"


def shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def against_chance(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the shares of the groups among the kept, with the mean and the 95 % interval of a random choice.

    `chance` is the mean. If all steps keep the same share of their candidates, it is the share among the candidates.
    """
    total = sum(row["kept"] for row in rows) or 1.0
    ends = [interval(row["mean"], row["variance"]) for row in rows]
    return {
        "offered": shares([row["offered"] for row in rows]),
        "kept": shares([row["kept"] for row in rows]),
        "chance": shares([row["mean"] for row in rows]),
        "low": [low / total for low, _ in ends],
        "high": [high / total for _, high in ends],
    }


def interval(mean: float, variance: float) -> tuple[float, float]:
    """Return the 95 % interval of a sum of hypergeometric counts with this mean and variance.

    The ends are the 2.5 % and 97.5 % quantiles of the binomial distribution with the same mean and, except that its n
    is whole, the same variance. Such a sum is also a sum of independent Bernoulli variables (Vatutin & Mikhailov 1982),
    so its variance is below its mean and such a binomial exists. At counts near 0 it is close, but a normal
    distribution is not.
    """
    if mean <= 0:
        return 0.0, 0.0
    if variance <= 1e-9 * mean:
        return mean, mean
    from scipy.stats import binom

    n = max(round(mean * mean / max(mean - variance, 1e-12)), 1, -int(-mean // 1))
    low, high = binom.ppf([0.025, 0.975], n, min(mean / n, 1.0))
    return float(low), float(high)
