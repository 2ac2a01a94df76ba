"""Read the rows of a pool as what is graded: the prompt, the question that ends it, and the last answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ...samples import Sample, from_row
from ...store import Artifact
from ..dedup.texts import Part, split
from ..pools import CONVERSATION


@dataclass(frozen=True)
class Row:
    """A row of a pool.

    Attributes:
        sample: its sample.
        position: its row number in the pool, from 0.
        prompt: texts of the messages before the last answer, joined by line breaks; empty for a plain text.
        question: the last text of the user before the last answer.
        answer: text of the last answer; for a plain text all of it.
        calls: whether the last answer calls a tool, so that it needs no text.
    """

    sample: Sample
    position: int
    prompt: str
    question: str
    answer: str
    calls: bool

    @property
    def sample_id(self) -> str:
        """Id of the sample."""
        return self.sample.sample_id

    @cached_property
    def parts(self) -> tuple[Part, Part]:
        """Prompt and answer as `curate dedup` compares them; for a plain text the second is empty."""
        return split(self.sample)


def row_of(sample: Sample, position: int) -> Row:
    """Return a sample as what is graded."""
    if sample.is_text:
        return Row(sample, position, "", "", str(sample.messages[0].get("content") or ""), False)
    messages = sample.messages
    last = max((turn for turn, each in enumerate(messages) if each["role"] == "assistant"), default=len(messages))
    texts = [str(each.get("content") or "") for each in messages]
    questions = [texts[turn] for turn in range(last) if messages[turn]["role"] == "user"]
    answer, calls = ("", False) if last == len(messages) else (texts[last], bool(messages[last].get("tool_calls")))
    return Row(sample, position, "\n".join(filter(None, texts[:last])), (questions or [""])[-1], answer, calls)


def rows_of(pool: Artifact) -> Iterator[Row]:
    """Yield the rows of a pool in order, also those that hold a sample again."""
    for table in pool.tables(CONVERSATION):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield row_of(from_row(row), row["position"])
