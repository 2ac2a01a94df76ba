"""Split conversations into the samples that a model is trained on: whole conversations, or their answers one by one.

The encoder decides which (`Encoder.route`). Every answer that becomes a sample is recorded in the table `turn_samples`,
so that SQL finds its conversation and its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...samples import Sample, answer_id, answer_turns, expand
from ...store import POOLS, Artifact, Draft, Store

if TYPE_CHECKING:
    from ...lm.tokens.chat import MaskError
    from ...lm.tokens.encode import Encoder
    from ...lm.tokens.routes import Route

GROUP, GROUP_CHARACTERS = 32, 200_000
"""Conversations whose routes are found together, at most, and the characters above which a group is full."""

SCHEMA = pa.schema({"sample_id": pa.string(), "conversation_id": pa.string(), "turn": pa.int32()})
"""Columns of the table `turn_samples`."""

Answers = Mapping[str, tuple[str, int]]
"""Answers that are samples of their own: sample id -> (conversation id, turn)."""


class Expansion:
    """Splits conversations as an encoder's route says, and remembers the answers that became samples.

    Args:
        encoder: encoder of the samples.

    Attributes:
        turns: id of each such answer -> its turn, the index of its message in the conversation, from 0.
        conversations: id of each such answer -> id of its conversation.
        routes: (`whole` or `expand`, reason) -> number of conversations.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.turns: dict[str, int] = {}
        self.conversations: dict[str, str] = {}
        self.routes: Counter[tuple[str, str]] = Counter()

    def __call__(self, samples: Iterable[tuple[int, Sample]]) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of each conversation with its position: itself, or its answers in order."""
        for group in _groups(samples):
            routes = self.encoder.routes([sample for _, sample in group])
            for (position, sample), route in zip(group, routes, strict=True):
                for part in self._parts(sample, route):
                    yield position, part

    def split(self, sample: Sample) -> Sequence[Sample]:
        """Return the samples of a conversation: itself, or its answers in order."""
        return self._parts(sample, self.encoder.routes([sample])[0])

    def _parts(self, sample: Sample, route: Route | MaskError) -> Sequence[Sample]:
        if not isinstance(route, Exception):
            self.routes[route.name, route.reason] += 1
        if isinstance(route, Exception) or not route.expand or not (answers := expand(sample)):
            return [sample]  # where there is no route, encoding the sample gives the reason
        for answer in answers:
            self.turns[answer.sample_id] = len(answer.messages) - 1
            self.conversations[answer.sample_id] = answer.conversation_id
        return answers

    @property
    def answers(self) -> Answers:
        """The answers that became samples."""
        return {sample_id: (self.conversations[sample_id], turn) for sample_id, turn in self.turns.items()}

    def summary(self) -> dict[str, int]:
        """Return the number of conversations that were split and of their answers, for a summary; {} without any."""
        if not self.turns:
            return {}
        return {"conversations split": len(set(self.conversations.values())), "into answers": len(self.turns)}

    def record(self, draft: Draft, key: str = "all") -> None:
        """Add the answers to the table `turn_samples`; without any nothing is added."""
        record_answers(draft, self.answers, key)


def _groups(samples: Iterable[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Yield samples in groups of few characters, whose routes are found together."""
    group: list[tuple[int, Sample]] = []
    for position, sample in samples:
        group.append((position, sample))
        if len(group) == GROUP or sum(each.characters for _, each in group) > GROUP_CHARACTERS:
            yield group
            group = []
    if group:
        yield group


def record_answers(draft: Draft, answers: Answers, key: str = "all") -> None:
    """Add answers to the table `turn_samples`, so that the artifact's sample ids can be looked up on their own."""
    if answers:
        found = [(sample_id, conversation, turn) for sample_id, (conversation, turn) in answers.items()]
        columns = [list(column) for column in zip(*found, strict=True)]
        draft.add("turn_samples", pa.table(columns, schema=SCHEMA), key=key)


def have_several_answers(artifacts: Iterable[Artifact]) -> bool:
    """Return whether one of the pools among these artifacts has a conversation with several answers."""
    from ...store.rows.pool_rows import any_repeats_role

    pools = [artifact for artifact in artifacts if artifact.stage in POOLS]
    return any(any_repeats_role(pool.shards(), "assistant") for pool in pools)


def answers_of(store: Store, reader: Artifact) -> Answers:
    """Return the answers that an artifact read as samples of their own."""
    rows = store.query(
        "SELECT DISTINCT sample_id, conversation_id, turn FROM turn_samples WHERE artifact = $name",
        {"name": store.display_names()[reader.fingerprint]},
    )
    columns = (rows[name].to_pylist() for name in ("sample_id", "conversation_id", "turn"))
    return {sample_id: (conversation, turn) for sample_id, conversation, turn in zip(*columns, strict=True)}


def conversations_of(store: Store, reader: Artifact, ids: Iterable[str]) -> list[str]:
    """Return for each sample that an artifact read the id of its conversation, which is its own if it is no answer."""
    answers = answers_of(store, reader)
    return [answers[each][0] if each in answers else each for each in ids]


def origins(store: Store, ids: pa.ChunkedArray) -> pa.Table:
    """Return `sample_id`, `conversation_id` and `turn` of those samples that are answers, in any artifact's reading."""
    known = store.query("SELECT DISTINCT sample_id, conversation_id, turn FROM turn_samples")
    return known.filter(pc.is_in(known["sample_id"], value_set=ids.cast(pa.string()))).combine_chunks()


def is_chosen(sample: Sample, chosen: set[str]) -> bool:
    """Return whether the ids contain a conversation, or one of its answers."""
    whole = sample.conversation_id
    return whole in chosen or any(answer_id(whole, turn) in chosen for turn in answer_turns(sample.messages))


def check_all_read(chosen: set[str], read: Iterable[str], conversations: Mapping[str, str], subset: str) -> None:
    """Raise `DataError` if a subset has answers that a run does not read as samples of their own.

    Args:
        chosen: sample ids of the subset.
        read: ids of all samples that the run read of it, also of rejected ones.
        conversations: answer -> conversation, of the answers that it read.
        subset: name of the subset, for the message.
    """
    missing = chosen.difference(read, conversations, conversations.values())
    if missing:
        raise DataError(
            f"{len(missing)} samples of the subset '{subset}' are answers of conversations that this run reads whole, "
            f"{min(missing)} among them. Give --turns expand, or select again from features that were made with the "
            "same --turns, model and chat template."
        )
