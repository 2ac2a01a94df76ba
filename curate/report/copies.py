"""Rows of the pool that hold held-out rows, and copies within it: pairs of texts, with counts of all that were found.

A page shows at most `SHOWN` pairs of each kind, and from a text only the part around the passage that both have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from ..stages.pools import samples_of
from ..store import Artifact
from .runs import ReportContext
from .samples import question_and_answer

SHOWN = 20
"""Largest number of pairs of a kind on the page."""
BEFORE, LONGEST = 150, 600
"""Characters of a text before the passage, and of the whole text."""
LEAST_WORDS = 2
"""Shortest passage that is marked, in words; a passage of one word is marked if it is all of it."""
SEARCHED, PASSAGE = 20_000, 400
"""Characters of a text in which the passage is looked for, and of the passage."""
CUT = "…"

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|\d+(?:[.,]\d+)*|[^\W\d_]+")

LEAK_COUNTS = """
SELECT kind, count(*) AS pairs, count(DISTINCT sample_id) AS samples,
       count(DISTINCT (against, against_sample_id)) AS others
FROM leaks WHERE subset = $subset GROUP BY kind ORDER BY pairs DESC, kind
"""
LEAKS = """
SELECT kind, score, evidence, left(passage, 400) AS passage, sample_id, position, against, against_sample_id AS other_id
FROM leaks WHERE subset = $subset
QUALIFY row_number() OVER (PARTITION BY kind ORDER BY score DESC, position, against, against_position) <= $most
ORDER BY count(*) OVER (PARTITION BY kind) DESC, kind, score DESC, position, against, against_position
"""
COPY_COUNTS = """
SELECT kind || CASE WHEN across THEN ' in the other pool' ELSE '' END AS kind, count(*) AS pairs,
       count(DISTINCT sample_id) AS samples, count(DISTINCT other_id) AS others
FROM duplicates WHERE subset = $subset GROUP BY ALL ORDER BY pairs DESC, 1
"""
COPIES = """
SELECT kind || CASE WHEN across THEN ' in the other pool' ELSE '' END AS kind, jaccard AS score, sample_id, other_id
FROM duplicates WHERE subset = $subset
QUALIFY row_number() OVER (PARTITION BY kind, across ORDER BY jaccard, sample_id, other_id) <= $most
ORDER BY count(*) OVER (PARTITION BY kind, across) DESC, 1, jaccard, sample_id, other_id
"""


def leaks(context: ReportContext) -> list[dict[str, Any]]:
    """Return for each `curate decontaminate` of the pool the counts by kind, and the pairs with the highest scores."""
    return [_page(context, made, LEAK_COUNTS, LEAKS) for made in _made(context, "decontaminate")]


def copies(context: ReportContext) -> list[dict[str, Any]]:
    """Return for each `curate dedup` of the pool the counts by kind, and the pairs that are least alike."""
    return [_page(context, made, COPY_COUNTS, COPIES) for made in _made(context, "dedup")]


def _made(context: ReportContext, stage: str) -> list[Artifact]:
    pool = context.pool.fingerprint
    return [a for a in context.store.artifacts() if a.stage == stage and a.inputs.get("pool") == pool]


def _page(context: ReportContext, made: Artifact, counts: str, pairs: str) -> dict[str, Any]:
    subset = context.labels[made.fingerprint]
    by_kind = context.rows(counts, subset=subset)
    shown = context.rows(pairs, subset=subset, most=SHOWN)
    own = _texts([context.pool], (row["sample_id"] for row in shown))
    others = _texts(_other_pools(context, made), (row["other_id"] for row in shown))
    for row in shown:
        own_text, other_text = own.get(row["sample_id"]), others.get(row["other_id"])
        passage = row.get("passage") or ""
        row["text"], row["other_text"] = (marked(text, passage) for text in (own_text, other_text))
    return {
        "name": subset,
        "kept": made.rows or made.summary.get("samples"),
        "counts": by_kind,
        "pairs": shown,
        "left_out": sum(row["pairs"] for row in by_kind) - len(shown),
    }


def _other_pools(context: ReportContext, made: Artifact) -> list[Artifact]:
    """Return the pools that are compared with, in order, and then the pool itself."""
    wanted = [value for key, value in made.inputs.items() if key.partition(".")[0] == "against"]
    found = {artifact.fingerprint: artifact for artifact in context.store.artifacts()}
    return [found[fingerprint] for fingerprint in wanted if fingerprint in found] + [context.pool]


def _texts(pools: Iterable[Artifact], sample_ids: Iterable[str]) -> dict[str, str]:
    """Return question and answer of samples, from the first pool that has each; ids of tasks have no text here."""
    wanted = {sample_id for sample_id in sample_ids if sample_id}
    found: dict[str, str] = {}
    for pool in pools:
        missing = wanted - found.keys()
        for sample_id, sample in (samples_of(pool, missing) if missing else {}).items():
            found[sample_id] = "\n\n".join(part for part in question_and_answer(sample.messages) if part)
    return found


def marked(text: str | None, passage: str) -> list[str] | None:
    """Return the part of a text around a passage, as what is before it, the passage, and what is behind it.

    Args:
        text: the text, as it was read; None gives None.
        passage: words that were normalized. The longest run of them that the text has is the passage; without one the
            result is the beginning of the text alone.
    """
    if text is None:
        return None
    spans = [match.span() for match in WORD.finditer(text, 0, SEARCHED)]
    start, stop = _run(
        _words(text[a:b] for a, b in spans), _words(match[0] for match in WORD.finditer(passage[:PASSAGE]))
    )
    if stop == start:
        return [_cut(text, LONGEST)]
    first, last = spans[start][0], spans[stop - 1][1]
    before = text[max(0, first - BEFORE) : first]
    rest = LONGEST - len(before)
    inside = _cut(text[first:last], rest)
    return [(CUT if first > BEFORE else "") + before, inside, _cut(text[last:], max(rest - len(inside), 0))]


def _run(words: Sequence[str], passage: Sequence[str]) -> tuple[int, int]:
    """Return the range of the longest run of words of the passage; an empty one if it is too short to be marked."""
    found = SequenceMatcher(None, words, passage, autojunk=False).find_longest_match()
    long_enough = found.size >= min(LEAST_WORDS, len(passage))
    return (found.a, found.a + found.size) if long_enough else (0, 0)


def _words(texts: Iterable[str]) -> list[str]:
    return [unicodedata.normalize("NFKC", text).casefold().replace(",", "") for text in texts]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + CUT
