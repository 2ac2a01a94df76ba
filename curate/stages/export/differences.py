"""Find the rows that a trainer would skip or change, before they are exported to it.

The trainers report such rows in the middle of their logs, or not at all. The rules are those of the releases that
`tests/neighbours` runs: LLaMA-Factory 0.9.5 (data/converter.py), ms-swift 4.6 (template/base.py) and TRL 1.16
(trainer/sft_trainer.py). Axolotl renders messages with the model's chat template, as curate does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from ...errors import DataError
from ...samples import Message, Sample

Effect = Literal["skips", "changes", "loses"]
Finding = tuple[Effect, str]
"""Effect of a trainer on a row, and the reason."""

NAMED = 3
"""Number of samples that are named for each reason."""
READ_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id"})
"""Keys of messages that every trainer reads, or that hold no text."""
REASONING_KEYS = frozenset({"reasoning_content", "reasoning", "thinking", "thought", "thoughts"})
FLAG_KEYS = frozenset({"train", "train_detail"})
"""Keys of messages that exclude them, or parts of them, from the loss."""
WAYS = (("trl", "prompt-completion"), ("trl", "messages"), ("axolotl", "messages"), ("ms-swift", "messages"))
"""Trainers and formats that may keep what another loses; Axolotl keeps everything."""


@dataclass
class Differences:
    """Rows that a trainer treats in another way than `curate train` does.

    Attributes:
        rows: number of rows in the export.
        found: effect and reason -> ids of the samples, at most `NAMED`, and their number.
        skipped: number of rows that the trainer leaves out.
        flags: keys of messages that exclude text from the loss, as far as they occur.
        ways: those of `WAYS` that treat every sample of which the trainer loses something as `curate train` does.
    """

    rows: int = 0
    found: dict[Finding, tuple[list[str], int]] = field(default_factory=dict)
    skipped: int = 0
    flags: set[str] = field(default_factory=set)
    ways: Sequence[tuple[str, str]] = WAYS

    @classmethod
    def of(cls, batches: Iterable[Sequence[Sample]], trainer: str, row_format: str) -> Differences:
        """Return what a trainer does differently with these samples in a format of rows."""
        differences = cls()
        for sample in (sample for batch in batches for sample in batch):
            differences.rows += 1
            differences.flags |= {
                key for message in sample.messages for key in FLAG_KEYS if message.get(key) is not None
            }
            findings = dict.fromkeys(findings_of(sample, trainer, row_format))
            differences.skipped += any(effect == "skips" for effect, _ in findings)
            if any(effect == "loses" for effect, _ in findings):
                differences.ways = [way for way in differences.ways if _is_kept(sample, *way)]
            for finding in findings:
                ids, count = differences.found.get(finding, ([], 0))
                named = [*ids, sample.sample_id] if len(ids) < NAMED else ids
                differences.found[finding] = (named, count + 1)
        return differences

    def check(self, title: str, row_format: str) -> None:
        """Raise `DataError` if the trainer would lose text or flags of a row, or would skip every row.

        Args:
            title: name of the trainer.
            row_format: format of the rows.
        """
        for (effect, reason), (ids, count) in self.found.items():
            if effect == "loses":
                raise DataError(
                    f"{title} {reason}, in {_rows(count)} of {self.rows} in the format {row_format}: "
                    f"{_named(ids, count)}. Leave these samples out with --sql, or export with {self._other_ways()}, "
                    "which keeps everything of them."
                )
        if self.rows and self.skipped == self.rows:
            raise DataError(
                f"{title} skips every row in the format {row_format}: {self.lines()[0]}. Select other samples, or "
                "export for another trainer (axolotl and trl skip none of these)."
            )

    def _other_ways(self) -> str:
        """Return the options of the exports that lose nothing. The default format of their trainers is `messages`."""
        return " or ".join(
            f"--for {trainer}" + ("" if row_format == "messages" else f" --format {row_format}")
            for trainer, row_format in self.ways
        )

    def lines(self) -> list[str]:
        """Return one line for each reason: what happens to how many rows, why, and the ids of some of them."""
        return [
            f"{effect} {_rows(count)} of {self.rows}: {reason} ({_named(ids, count)})"
            for (effect, reason), (ids, count) in self.found.items()
        ]


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _named(ids: Sequence[str], count: int) -> str:
    return ", ".join(ids) + (", ..." if count > len(ids) else "")


def _is_kept(sample: Sample, trainer: str, row_format: str) -> bool:
    """Return whether a trainer treats a sample in a format as `curate train` does."""
    fits = row_format == "messages" or sample.messages[-1]["role"] == "assistant"
    sample = replace(sample, weight=1.0)  # no text is lost with it
    return fits and not any(findings_of(sample, trainer, row_format))


def findings_of(sample: Sample, trainer: str, row_format: str) -> Iterator[Finding]:
    """Yield what a trainer does differently with a sample, and why.

    Args:
        sample: the conversation.
        trainer: key of `TRAINER_FORMATS`.
        row_format: format of the rows.
    """
    if sample.weight != 1 and (trainer, row_format) != ("ms-swift", "messages"):
        yield "changes", "reads no weights of rows, so each row counts once"
    if sample.is_text or row_format == "alpaca" or trainer == "axolotl":
        return
    if trainer == "trl":
        yield from _of_trl(sample.messages, row_format)
        return
    if row_format == "messages":
        kept = FLAG_KEYS - {"train_detail"} if trainer == "ms-swift" else frozenset[str]()
        yield from _dropped_keys(sample.messages, kept)
    elif row_format == "sharegpt":
        yield from (finding for finding in _dropped_keys(sample.messages, frozenset()) if finding[0] == "loses")
    if any(message.get("content") is None and not message.get("tool_calls") for message in sample.messages):
        yield "skips", "a message has no content"
    yield from (_of_llama_factory if trainer == "llama-factory" else _of_ms_swift)(sample.messages)


def _of_trl(messages: Sequence[Message], row_format: str) -> Iterator[Finding]:
    *earlier, last = [message for message in messages if message["role"] == "assistant"]
    if row_format == "messages":
        if any(message.get(key) is not None for message in messages for key in FLAG_KEYS):
            yield "loses", "reads no flags of messages (train, train_detail), so it would train on what they exclude"
    else:
        if any(last.get(key) is not None for key in FLAG_KEYS):
            yield "loses", "reads no flags of messages (train, train_detail), so it would train on what they exclude"
        if any(message.get("train") is not False for message in earlier):
            yield "changes", "only the last answer is trained on, not the earlier ones"


def _dropped_keys(messages: Sequence[Message], kept: frozenset[str]) -> Iterator[Finding]:
    """Yield the keys of messages that a trainer drops; `kept` are flags that it reads."""
    for message in messages:
        for key in sorted(message.keys() - READ_KEYS - kept):
            if message[key] in (None, "", []) or (key == "name" and message["role"] == "tool"):
                continue
            if key in REASONING_KEYS:
                yield "loses", f"drops the reasoning of messages ({key}), so it would train on answers without it"
            elif key in FLAG_KEYS:
                yield "loses", f"reads no {key} of messages, so it would train on what it excludes"
            else:
                yield "changes", f"the key {key} of messages is dropped"


def _body(messages: Sequence[Message]) -> list[str]:
    """Return the roles after a first system message."""
    roles = [message["role"] for message in messages]
    return roles[1:] if roles[0] == "system" else roles


def _of_llama_factory(messages: Sequence[Message]) -> Iterator[Finding]:
    """Yield the reason why LLaMA-Factory skips a conversation: it takes pairs of a question and an answer."""
    roles = _body(messages)
    if "system" in roles:
        yield "skips", "a system message is not the first message"
    elif roles[0] == "assistant":
        yield "skips", "the assistant begins"
    elif any((role == "assistant") != (number % 2 == 1) for number, role in enumerate(roles)):
        yield "skips", "questions and answers do not alternate"
    elif len(roles) % 2:
        yield "skips", "the last message is not the assistant's"


def _of_ms_swift(messages: Sequence[Message]) -> Iterator[Finding]:
    """Yield what ms-swift does with a conversation that is not made of pairs of a question and an answer."""
    roles = _body(messages)
    if "system" in roles:
        yield "skips", "a system message is not the first message"
        return
    pairs = list(pairwise(roles))
    if roles[0] == "tool" or ("tool", "user") in pairs:
        yield "skips", "a tool's result is neither after a question or call nor before an answer"
        return
    if roles[0] == "assistant":
        yield "changes", "the assistant begins, so an empty user turn is put before it"
    if ("user", "user") in pairs:
        yield "changes", "user turns that follow each other are joined without a separator"
    if ("assistant", "assistant") in pairs:
        yield "changes", "answers that follow each other are joined without a separator"
    if ("user", "tool") in pairs:
        yield "changes", "a tool's result after a user turn becomes a part of it"
    if roles[-1] != "assistant":
        yield "changes", "the last message is not the assistant's, so the beginning of an empty answer follows it"
