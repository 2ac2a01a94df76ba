"""The samples themselves: texts, labels, and what each run made of them; of a large pool the most kept, and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..samples import to_json
from .groups import TOKENS, Grouping
from .runs import ReportContext, Run

LONGEST = 2000
"""Characters of a text that are shown."""
CUT = " … (cut)"
SEED = "0"

SHOWN = """
WITH pool AS (SELECT sample_id, min(position) AS position FROM samples WHERE pool = $pool GROUP BY sample_id),
seen AS (
    SELECT sample_id, count(*) FILTER (kept) AS kept FROM ledger WHERE list_contains($runs, run) GROUP BY sample_id
),
chosen AS (
    SELECT sample_id, position, count(*) OVER () AS total, count(*) FILTER (kept > 0) OVER () AS ever
    FROM pool LEFT JOIN seen USING (sample_id)
    ORDER BY coalesce(kept, 0) DESC, md5($seed || sample_id) LIMIT $most
)
SELECT * FROM chosen ORDER BY position
"""

WANTED = "WITH wanted AS (SELECT unnest($ids) AS sample_id, unnest(range(len($ids))) AS place)"

SEEN = f"""
{WANTED}
SELECT place, count(l.kept) AS offered, count(*) FILTER (l.kept) AS kept, {{columns}}
FROM wanted LEFT JOIN (SELECT * FROM ledger WHERE run = $run) l USING (sample_id) GROUP BY place ORDER BY place
"""

WHEN = "(l.step << 32) + (l.rank << 20) + l.slot"
"""The order of a run's candidates in one number: 2²⁰ slots of 2¹² processes."""

HISTORY = f"""
{WANTED}
SELECT v.volatility, f.forgotten FROM wanted
LEFT JOIN (SELECT sample_id, volatility FROM volatility x WHERE x.run = $run) v USING (sample_id)
LEFT JOIN (SELECT sample_id, forgotten FROM forgetting y WHERE y.run = $run) f USING (sample_id) ORDER BY place
"""

LENGTHS = WANTED + f" SELECT t.tokens FROM wanted LEFT JOIN ({TOKENS}) t USING (sample_id) ORDER BY place"

LABELS = """
WITH members AS ({members}) SELECT label FROM members
WHERE position IN (SELECT unnest($positions)) ORDER BY position
"""


def samples(scope: ReportContext, ways: Sequence[Grouping], columns: Mapping[str, str]) -> dict[str, Any]:
    """What is shown of the pool's samples, as columns; one row a distinct conversation, in the pool's order.

    Args:
        ways: their groups become labels, but for length, which is a number.
        columns: what the ledger has numbers of, see `score_columns`.
    """
    shown = scope.columns(SHOWN, pool=scope.pool_label, runs=scope.run_labels, seed=SEED, most=scope.wish.max_samples)
    ids, positions = shown["sample_id"], shown["position"]
    total, ever = (max(shown[name], default=0) for name in ("total", "ever"))
    _tell_of(scope, total, ever, len(ids))
    prompts, answers, cut = _texts(scope, positions)
    lengths = scope.columns(LENGTHS, ids=ids, runs=scope.run_labels, features=scope.label_of(scope.features))
    return {
        "total": total,
        "shown": len(ids),
        "cut": cut,
        "id": ids,
        "position": positions,
        "prompt": prompts,
        "answer": answers,
        "tokens": lengths["tokens"],
        "labels": {way.by: _labels(scope, way, positions) for way in ways if way.by != "length"},
        "runs": [_of_run(scope, run, ids, columns) for run in scope.runs],
    }


def _tell_of(scope: ReportContext, total: int, ever: int, shown: int) -> None:
    rows = scope.pool.rows or total
    if rows > total:
        scope.notes.append(
            f"{rows - total:,} of the pool's {rows:,} rows repeat a conversation: a sample stands for all of its rows, "
            "its labels are those of the first. Groups count rows."
        )
    if shown == total:
        return
    if ever <= shown:
        how = f"all {ever:,} that were ever kept, the rest by chance (seed {SEED})"
    else:
        how = f"the most kept of the {ever:,} that were ever kept, between equals by chance (seed {SEED})"
    scope.notes.append(
        f"The pool has {total:,} samples; {shown:,} are shown: {how}. Totals, curves, groups and agreement are of all."
    )


def _texts(scope: ReportContext, positions: Sequence[int]) -> tuple[list[str], list[str], int]:
    """Prompts and answers at these rows of the pool, in order, and how many were cut."""
    wanted = pa.array(positions, pa.int64())
    found: dict[int, tuple[str, str]] = {}
    for table in scope.pool.tables(["position", "messages"]):
        rows = table.filter(pc.is_in(table["position"], value_set=wanted))
        for position, messages in zip(rows["position"].to_pylist(), rows["messages"].to_pylist(), strict=True):
            found[position] = question_and_answer(messages)
    pairs = [found[position] for position in positions]
    cut = sum(len(text) > LONGEST for pair in pairs for text in pair)
    if cut:
        scope.notes.append(f"{cut:,} texts are cut at {LONGEST:,} characters.")
    return [shorten(prompt) for prompt, _ in pairs], [shorten(answer) for _, answer in pairs], cut


def shorten(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST else text[:LONGEST] + CUT


def question_and_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """A conversation in two: all before the last answer, and that; nothing is left out.

    Turns carry their role where there is more than the user's; what is no text (tool calls) is shown as JSON. Plain
    text is an answer without a question.
    """
    last = messages[-1]["role"] if messages else ""
    ends = last in ("assistant", "text")
    turns = messages[:-1] if ends else messages
    answer = _content(messages[-1]) if ends else ""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return _content(turns[0]), answer
    return "\n\n".join(f"{turn['role']}: {_content(turn)}" for turn in turns), answer


def _content(message: Mapping[str, Any]) -> str:
    content, extra = message.get("content"), message.get("extra")
    said = [part for part in (content, extra) if part]
    return "\n".join(part if isinstance(part, str) else to_json(part) for part in said)


def _labels(scope: ReportContext, way: Grouping, positions: Sequence[int]) -> dict[str, Any]:
    """The values of a label, those of `way.order` first, and each sample's as its place among them; -1: has none."""
    sql = LABELS.format(members=way.members)
    labels = scope.columns(sql, positions=list(positions), **way.params)["label"]
    there = {label for label in labels if label is not None}
    ordered = [label for label in way.order if label in there]
    values = [*ordered, *sorted(there - set(ordered))]
    places = {label: place for place, label in enumerate(values)}
    return {"values": values, "codes": [places.get(label, -1) for label in labels]}


def _of_run(scope: ReportContext, run: Run, ids: Sequence[str], last: Mapping[str, str]) -> dict[str, Any]:
    """How often each sample was offered and kept, and the last that was seen of it; columns that are empty are none."""
    columns = ", ".join(
        f"arg_max({column}, {WHEN}) FILTER (isfinite({column})) AS c{number}"
        for number, column in enumerate(last.values())
    )
    seen = scope.columns(SEEN.format(columns=columns), ids=list(ids), run=run.label)
    looked = scope.columns(HISTORY, ids=list(ids), run=run.label)
    found = {name: seen[f"c{number}"] for number, name in enumerate(last)}
    found |= {"volatility": looked["volatility"], "forgetting": looked["forgotten"]}
    return {
        "offered": seen["offered"],
        "kept": seen["kept"],
        "columns": {name: values for name, values in found.items() if any(value is not None for value in values)},
    }
