"""The samples on the page: their texts and labels, and how often each run was offered them and kept them.

The page shows a limited number of samples: those kept most often, then randomly drawn ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..samples import to_json
from .groups import TOKENS, Grouping
from .runs import ReportContext, Run

LONGEST = 2000
"""Largest number of characters of a text on the page."""
CUT = " … (cut)"
"""Ending of a text that was cut."""
SEED = "0"
"""Seed of the random order of samples that were kept equally often."""

SHOWN = """
WITH conversations AS (SELECT sample_id, min(position) AS position FROM samples WHERE pool = $pool GROUP BY sample_id),
candidates AS (
    SELECT sample_id, count(*) FILTER (kept) AS kept FROM ledger WHERE list_contains($runs, run) GROUP BY sample_id
),
answers AS (
    SELECT DISTINCT sample_id, conversation_id, turn FROM turn_samples WHERE list_contains($runs, artifact)
),
pool AS (
    SELECT sample_id, position, NULL::INTEGER AS turn FROM conversations
    WHERE sample_id NOT IN (SELECT conversation_id FROM answers) OR sample_id IN (SELECT sample_id FROM candidates)
    UNION ALL
    SELECT a.sample_id, c.position, a.turn FROM answers a JOIN conversations c ON c.sample_id = a.conversation_id
),
chosen AS (
    SELECT sample_id, position, turn, count(*) OVER () AS total,
           (SELECT count(*) FROM conversations) AS conversations, count(*) FILTER (kept > 0) OVER () AS ever
    FROM pool LEFT JOIN candidates USING (sample_id)
    ORDER BY coalesce(kept, 0) DESC, md5($seed || sample_id) LIMIT $most
)
SELECT * FROM chosen ORDER BY position, turn
"""

WANTED = "WITH wanted AS (SELECT unnest($ids) AS sample_id, unnest(range(len($ids))) AS number)"

HISTORY = f"""
{WANTED}
SELECT number, count(l.kept) AS offered, count(*) FILTER (l.kept) AS kept, {{columns}}
FROM wanted LEFT JOIN (SELECT * FROM ledger WHERE run = $run) l USING (sample_id) GROUP BY number ORDER BY number
"""

WHEN = "(l.step << 32) + (l.rank << 20) + l.slot"
"""SQL for the order of the candidates of a run as one number. It has space for 2²⁰ slots of 2¹² processes."""

CHANGES = f"""
{WANTED}
SELECT v.volatility, f.forgotten FROM wanted
LEFT JOIN (SELECT sample_id, volatility FROM volatility x WHERE x.run = $run) v USING (sample_id)
LEFT JOIN (SELECT sample_id, forgotten FROM forgetting y WHERE y.run = $run) f USING (sample_id) ORDER BY number
"""

LENGTHS = WANTED + f" SELECT t.tokens FROM wanted LEFT JOIN ({TOKENS}) t USING (sample_id) ORDER BY number"

LABELS_OF_SAMPLES = """
WITH members AS ({members}),
shown AS (SELECT unnest($positions) AS position, unnest($ids) AS sample_id, unnest(range(len($ids))) AS number)
SELECT any_value(m.label) AS label FROM shown s
LEFT JOIN members m ON m.position = s.position AND (m.sample_id IS NULL OR m.sample_id = s.sample_id)
GROUP BY number ORDER BY number
"""


def samples(context: ReportContext, by: Sequence[Grouping], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the shown samples as columns, with one row per distinct conversation or answer, in the order of the pool.

    Args:
        context: the runs and their pool.
        by: the groupings. Their groups become labels of the samples, except the length, which is a number.
        columns: the score columns of the ledger, see `score_columns`.
    """
    shown = context.columns(
        SHOWN, pool=context.pool_label, runs=context.run_labels, seed=SEED, most=context.request.max_samples
    )
    ids, positions = shown["sample_id"], shown["position"]
    total, ever, distinct = (max(shown[name], default=0) for name in ("total", "ever", "conversations"))
    _note_selection(context, total, ever, len(ids), distinct)
    prompts, answers, cut = _texts(context, positions, shown["turn"])
    lengths = context.columns(LENGTHS, ids=ids, runs=context.run_labels, features=context.label_of(context.features))
    return {
        "total": total,
        "shown": len(ids),
        "cut": cut,
        "id": ids,
        "position": positions,
        "prompt": prompts,
        "answer": answers,
        "tokens": lengths["tokens"],
        "labels": {each.by: _labels(context, each, positions, ids) for each in by if each.by != "length"},
        "runs": [_of_run(context, run, ids, columns) for run in context.runs],
    }


def _note_selection(context: ReportContext, total: int, ever: int, shown: int, distinct: int) -> None:
    rows = context.pool.rows or distinct
    if total > distinct:
        context.notes.append(
            f"The runs read some of the pool's {distinct:,} conversations as answers, each a sample of its own. So "
            f"there are {total:,} samples. The row of an answer is that of its conversation."
        )
    if rows > distinct:
        context.notes.append(
            f"{rows - distinct:,} of the pool's {rows:,} rows repeat a conversation. A sample stands for all rows of "
            "its conversation and has the labels of the first one. Groups count rows."
        )
    if shown == total:
        return
    if ever <= shown:
        chosen = f"all {ever:,} that a run ever kept, and random other ones (seed {SEED})"
    else:
        chosen = (
            f"the most often kept of the {ever:,} that a run ever kept, with random choices among equals (seed {SEED})"
        )
    context.notes.append(
        f"The pool has {total:,} samples; {shown:,} are shown: {chosen}. Totals, curves, groups and agreement include "
        "all samples."
    )


def _texts(
    context: ReportContext, positions: Sequence[int], turns: Sequence[int | None]
) -> tuple[list[str], list[str], int]:
    """Return the prompts and the answers at these rows of the pool, in order, and the number of texts that were cut.

    Args:
        context: the runs and their pool.
        positions: rows of the pool.
        turns: turn of the answer in the row; None for the last one.
    """
    turns_at: dict[int, list[int | None]] = {}
    for position, turn in zip(positions, turns, strict=True):
        turns_at.setdefault(position, []).append(turn)
    wanted = pa.array(positions, pa.int64())
    found: dict[tuple[int, int | None], tuple[str, str]] = {}
    for table in context.pool.tables(["position", "messages"]):
        rows = table.filter(pc.is_in(table["position"], value_set=wanted))
        for position, messages in zip(rows["position"].to_pylist(), rows["messages"].to_pylist(), strict=True):
            for turn in turns_at[position]:
                found[position, turn] = question_and_answer(messages if turn is None else messages[: turn + 1])
    pairs = [found[each] for each in zip(positions, turns, strict=True)]
    cut = sum(len(text) > LONGEST for pair in pairs for text in pair)
    if cut:
        context.notes.append(f"{cut:,} texts are cut at {LONGEST:,} characters.")
    return [shorten(prompt) for prompt, _ in pairs], [shorten(answer) for _, answer in pairs], cut


def shorten(text: str) -> str:
    """Return the text, cut at `LONGEST` characters."""
    return text if len(text) <= LONGEST else text[:LONGEST] + CUT


def question_and_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Split a conversation into the last answer and all turns before it. Nothing is lost.

    If the first part is more than a single user turn, each turn starts with its role. Content that is no text, such as
    a tool call, becomes JSON. A plain text is an answer without a question.
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
    parts = [part for part in (content, extra) if part]
    return "\n".join(part if isinstance(part, str) else to_json(part) for part in parts)


def _labels(context: ReportContext, grouping: Grouping, positions: Sequence[int], ids: Sequence[str]) -> dict[str, Any]:
    """Return the values of a label, in `grouping.order`, and the index of each sample's value, or -1 for none."""
    sql = LABELS_OF_SAMPLES.format(members=grouping.members)
    labels = context.columns(sql, positions=list(positions), ids=list(ids), **grouping.params)["label"]
    present = {label for label in labels if label is not None}
    ordered = [label for label in grouping.order if label in present]
    values = [*ordered, *sorted(present - set(ordered))]
    codes = {label: code for code, label in enumerate(values)}
    return {"values": values, "codes": [codes.get(label, -1) for label in labels]}


def _of_run(context: ReportContext, run: Run, ids: Sequence[str], scores: Mapping[str, str]) -> dict[str, Any]:
    """Return how often each sample was offered and kept, and its last scores. Columns without any value are omitted."""
    columns = ", ".join(
        f"arg_max({column}, {WHEN}) FILTER (isfinite({column})) AS c{number}"
        for number, column in enumerate(scores.values())
    )
    history = context.columns(HISTORY.format(columns=columns), ids=list(ids), run=run.label)
    changes = context.columns(CHANGES, ids=list(ids), run=run.label)
    found = {name: history[f"c{number}"] for number, name in enumerate(scores)}
    found |= {"volatility": changes["volatility"], "forgetting": changes["forgotten"]}
    return {
        "offered": history["offered"],
        "kept": history["kept"],
        "columns": {name: values for name, values in found.items() if any(value is not None for value in values)},
    }
