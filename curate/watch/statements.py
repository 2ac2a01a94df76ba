"""SQL of the pictures. `curate watch` runs it on the newest steps, and shows it for `curate query` on all steps.

Each statement returns one row per step (and label), so the rows of later steps only have to be added to those before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.groups import Grouping
from ..store.catalog.sql import quote

LOSS_SUMS = """sum({l}loss * {l}target_tokens) FILTER (isfinite({l}loss)) AS loss_sum,
       sum({l}target_tokens) FILTER (isfinite({l}loss))::DOUBLE AS loss_tokens"""

STEPS = f"""SELECT step, count(*) AS offered, count(*) FILTER (kept) AS kept, sum(tokens)::BIGINT AS tokens,
       sum(tokens) FILTER (kept)::BIGINT AS kept_tokens, sum(target_tokens) FILTER (kept)::BIGINT AS kept_targets,
       {LOSS_SUMS.format(l="")},
       sum(loss * target_tokens) FILTER (kept AND isfinite(loss)) AS kept_loss_sum,
       sum(target_tokens) FILTER (kept AND isfinite(loss))::DOUBLE AS kept_loss_tokens
FROM ledger WHERE run = $run AND step > $after GROUP BY step ORDER BY step"""

SCORES = """SELECT step, count(*) FILTER (kept AND isfinite({column})) AS kept_count,
       sum({column}) FILTER (kept AND isfinite({column})) AS kept_sum,
       count(*) FILTER (NOT kept AND isfinite({column})) AS passed_count,
       sum({column}) FILTER (NOT kept AND isfinite({column})) AS passed_sum,
       quantile_cont({column}, [0.1, 0.5, 0.9]) FILTER (isfinite({column})) AS quantiles
FROM ledger WHERE run = $run AND step > $after GROUP BY step ORDER BY step"""

GROUPS = f"""SELECT l.step, m.label, count(*) AS offered, count(*) FILTER (l.kept) AS kept,
       {LOSS_SUMS.format(l="l.")}
FROM ledger l JOIN {{members}} m ON m.position = l.position AND (m.sample_id IS NULL OR m.sample_id = l.sample_id)
WHERE l.run = $run AND l.step > $after GROUP BY l.step, m.label ORDER BY l.step, m.label"""

METRIC = "SELECT step, value FROM metrics WHERE run = $run AND metric = $metric AND isfinite(value) ORDER BY step"

ROWS = """SELECT l.step, l.sample_id, l.position, l.score, l.loss, l.tokens, l.target_tokens, l.weight, l.parts{labels}
FROM ledger l{joins}
WHERE l.run = $run AND l.step = $step AND l.kept = $kept
ORDER BY {order} LIMIT $most"""
BY_SCORE = "l.score DESC NULLS LAST, l.loss DESC NULLS LAST, l.rank, l.slot"
BY_LOSS = "l.loss * l.target_tokens DESC NULLS LAST, l.rank, l.slot"
JOIN = """
LEFT JOIN {members} m{number}
    ON m{number}.position = l.position AND (m{number}.sample_id IS NULL OR m{number}.sample_id = l.sample_id)"""

PART_NAMES = "SELECT DISTINCT unnest(map_keys(parts)) AS name FROM ledger WHERE run = $run AND step > $after ORDER BY 1"

TURNS = "SELECT DISTINCT sample_id, turn FROM turn_samples WHERE list_contains($ids, sample_id)"


def rows_statement(tables: Sequence[str], order: str) -> str:
    """Return the statement for rows of one step, with a column `label_N` for each table of members."""
    labels = "".join(f", m{number}.label AS label_{number}" for number in range(len(tables)))
    joins = "".join(JOIN.format(members=name, number=number) for number, name in enumerate(tables))
    return ROWS.format(labels=labels, joins=joins, order=order)


def for_user(sql: str, values: Mapping[str, Any]) -> str:
    """Return a statement with its parameters filled in, as `curate query` takes it."""
    for name, value in sorted(values.items(), key=lambda each: -len(each[0])):
        sql = sql.replace(f"${name}", literal(value))
    return sql.strip()


def literal(value: Any) -> str:
    """Return a value as a SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        return quote(value)
    return f"[{', '.join(literal(each) for each in value)}]"


def members_of(grouping: Grouping) -> str:
    """Return the members of a grouping as a table for a statement that a user may run."""
    return f"({for_user(grouping.members, grouping.params)})"
