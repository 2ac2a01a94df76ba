"""Read the prompts of samples: what the user asks. They name the clusters, since answers mostly follow from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...samples import answer_id, answer_turns, from_row
from ...store import Artifact
from ..pools import CONVERSATION


def prompts_of(pool: Artifact, sample_ids: Sequence[str], characters: int) -> dict[str, str]:
    """Return the prompt of each sample that the pool has.

    The prompt of a conversation is all that the user says; of an answer that is a sample of its own, the user's last
    message before it. Where no user speaks it is the first message, such as a plain text.

    Args:
        pool: the pool.
        sample_ids: ids of conversations and of answers.
        characters: largest number of characters of a prompt; the rest is cut.
    """
    wanted = pa.array(sample_ids, pa.string())
    found: dict[str, str] = {}
    for table in pool.tables(CONVERSATION):
        for sample_id, messages in _rows(table.filter(pc.is_in(table["sample_id"], value_set=wanted))):
            found.setdefault(sample_id, _said(messages)[:characters])
    if missing := set(sample_ids) - found.keys():
        for table in pool.tables(CONVERSATION):
            for sample_id, messages in _rows(table):
                found |= _of_answers(sample_id, messages, missing, characters)
    return found


def _rows(table: pa.Table) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            yield row["sample_id"], from_row(row).messages


def _of_answers(
    conversation: str, messages: Sequence[Mapping[str, Any]], wanted: Collection[str], characters: int
) -> dict[str, str]:
    """Return the prompts of those answers of a conversation that are wanted."""
    ids = {answer_id(conversation, turn): turn for turn in answer_turns(messages)}
    found = {}
    for sample_id in ids.keys() & wanted:
        before = messages[: ids[sample_id]]
        last = [message for message in before if message["role"] == "user"][-1:]
        found[sample_id] = _said(last or before or messages[:1])[:characters]
    return found


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what the user says, or the first message if that is nothing."""
    texts = [str(message.get("content") or "") for message in messages if message["role"] == "user"]
    return "\n".join(texts) if any(texts) else str(messages[0].get("content") or "")
