"""Make the rows of an export from the selected samples, batch by batch.

The rows can be iterated several times; only one batch is in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, DataError, did_you_mean
from ...formats import WEIGHT, Traits, columns_of, to_rows
from ...samples import Sample, answer_turns, from_row
from ...store.rows.out_of_core import read_batches
from .selection import CHOSEN_TURNS
from .weights import Weights, weight_columns

SINGLE_ANSWER = ("prompt-completion", "alpaca")
"""Formats with one answer a row, the last of the conversation."""


@dataclass
class ChosenTurns:
    """Counts of an export that has selected answers of conversations.

    Attributes:
        chosen: number of selected answers, with all answers of conversations that are selected as a whole.
        total: number of answers of the exported conversations.
    """

    chosen: int = 0
    total: int = 0


class ChosenRows:
    """Batches of rows in a format, with further columns. The first iteration checks every row.

    Attributes:
        sources: source -> number of samples from it.
        present: columns that the rows have by their format; for `original`, only known if further columns are given.
        chosen_turns: counts of the selected answers; None if conversations are selected as a whole.
        markers: key of the messages that says whether an answer is selected, if there is one.
        calls: True if a message of any sample calls a tool; for `original` without further columns, always False.
        weights: weights of the samples in the loss.

    Args:
        path: file with the selected samples in order, as `gather` of `store.rows.out_of_core` writes it.
        chosen: one record per selected sample, in order: `sample_id`, and columns such as score and weight.
        name: format of the rows.
        columns: further columns: of `chosen`, of the sample, or of the row as it was ingested.
        marker: key of messages that tells a trainer which answers to train on; None if the trainer has none.
        weights: counts weights, and combines them with those of the selection.
    """

    def __init__(
        self,
        path: Path,
        chosen: pa.Table,
        name: str,
        columns: Sequence[str],
        marker: str | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.path, self.chosen, self.name = path, chosen, name
        self.sources: Counter[str] = Counter()
        self.weights = weights or Weights()
        self._traits, original = Traits(), dict[str, None]()
        self.calls = False
        self.chosen_turns = ChosenTurns() if CHOSEN_TURNS in chosen.column_names else None
        self.markers = () if marker is None or self.chosen_turns is None else (marker,)
        if self.chosen_turns is not None:
            columns = list(dict.fromkeys([*columns, CHOSEN_TURNS]))
        if name == "original" and not columns:
            self._read_sources_and_formats()
        else:
            for samples in self._samples():
                self.sources.update(sample.source for sample in samples)
                self._traits |= Traits.of(samples)
                self.weights.count(sample.weight for sample in samples)
                self.calls |= any(message.get("tool_calls") for sample in samples for message in sample.messages)
                original |= dict.fromkeys(column for sample in samples for column in sample.original)
        self.present = set(original) if name == "original" else columns_of(name, self._traits)
        adds_weight = bool(self.weights.rows) and name != "original"
        others = [column for column in columns if column != WEIGHT] if adds_weight else columns
        self._columns = _new_columns(others, self.present, original, chosen.column_names)
        if adds_weight:
            self.weights.combined = WEIGHT in columns and WEIGHT in chosen.column_names
            self._columns.append(WEIGHT)
        self._checked = False

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        start = 0
        for samples in self._samples():
            turns = None if self.chosen_turns is None else self._values(CHOSEN_TURNS, samples, start)
            if turns is not None and self.name in SINGLE_ANSWER:
                samples = [self._last_only(sample, some) for sample, some in zip(samples, turns, strict=True)]
            rows = to_rows(samples, self.name, self._traits, check=not self._checked)
            if turns is not None:
                self._mark(samples, rows, turns)
            for column in self._columns:
                values = self._values(column, samples, start)
                rows = [row | {column: value} for row, value in zip(rows, values, strict=True)]
            yield rows
            start += len(rows)
        self._checked = True

    def _read_sources_and_formats(self) -> None:
        """Read the two columns that rows in the format `original` depend on, without reading the rows."""
        for batch in read_batches(self.path, ["source", "format", *weight_columns(self.path)]):
            self.sources.update(batch.column("source").to_pylist())
            self._traits |= Traits(formats=frozenset(batch.column("format").to_pylist()))
            if WEIGHT in batch.schema.names:
                self.weights.count(1.0 if weight is None else weight for weight in batch.column(WEIGHT).to_pylist())

    def _samples(self) -> Iterator[list[Sample]]:
        return ([from_row(row) for row in batch.to_pylist()] for batch in read_batches(self.path))

    def _values(self, column: str, samples: Sequence[Sample], start: int) -> list[Any]:
        """Return the values of a further column for these samples.

        Args:
            column: name of the column.
            samples: a batch of selected samples.
            start: number of the batch's first sample among all selected ones.
        """
        if column == WEIGHT and column in self._columns and self.weights.rows and self.name != "original":
            return self._weights(samples, start)
        if column in self.chosen.column_names:
            values: list[Any] = self.chosen[column].slice(start, len(samples)).to_pylist()
            return values if self.chosen_turns is None else self._by_turn(column, values, samples, start)
        if column == "source":
            return [sample.source for sample in samples]
        return [sample.original.get(column) for sample in samples]

    def _weights(self, samples: Sequence[Sample], start: int) -> list[Any]:
        """Return the weights of samples in the loss, combined with those of the selection if these are requested."""
        own = [sample.weight for sample in samples]
        if not self.weights.combined:
            return own
        given = self.chosen[WEIGHT].slice(start, len(samples)).to_pylist()
        if self.chosen_turns is not None:
            given = self._by_turn(WEIGHT, given, samples, start)
        return [self.weights.combine(*pair) for pair in zip(given, own, strict=True)]

    def _by_turn(self, column: str, values: list[Any], samples: Sequence[Sample], start: int) -> list[Any]:
        """Return the turns of the selected answers, or another column with one value per selected answer."""
        if column == "sample_id":
            return values
        every = [answer_turns(sample.messages) for sample in samples]
        if column == CHOSEN_TURNS:
            return [turns if value is None else value for value, turns in zip(values, every, strict=True)]
        whole = pc.is_null(self.chosen[CHOSEN_TURNS].slice(start, len(samples))).to_pylist()
        both = zip(values, every, whole, strict=True)
        return [value * len(turns) if is_whole else value for value, turns, is_whole in both]

    def _last_only(self, sample: Sample, turns: Sequence[int]) -> Sample:
        """Return a conversation of which only the last answer is trained on.

        Raises:
            DataError: another answer is selected.
        """
        last = len(sample.messages) - 1
        if list(turns) != [last]:
            raise DataError(
                f"The format {self.name} holds one answer, the last, but others of sample {sample.sample_id} are "
                f"selected (turns {', '.join(map(str, turns))}). Give --format messages or original."
            )
        before = [
            {**message, "train": False} if message["role"] == "assistant" else message
            for message in sample.messages[:last]
        ]
        return replace(sample, messages=[*before, sample.messages[last]])

    def _mark(self, samples: Sequence[Sample], rows: list[dict[str, Any]], chosen: Sequence[list[int]]) -> None:
        """Count the selected answers, and mark them in the messages if the trainer reads a mark."""
        assert self.chosen_turns is not None
        for sample, row, turns in zip(samples, rows, chosen, strict=True):
            if not self._checked:
                self.chosen_turns.chosen += len(turns)
                self.chosen_turns.total += len(answer_turns(sample.messages))
            for marker in self.markers:
                for turn, message in enumerate(sample.messages):
                    if message["role"] == "assistant":
                        row["messages"][turn][marker] = turn in turns


def _new_columns(
    requested: Sequence[str], present: set[str], original: Iterable[str], chosen: Sequence[str]
) -> list[str]:
    """Return the requested columns that the rows do not have yet.

    Args:
        requested: names of the requested columns.
        present: columns that the rows have by their format.
        original: columns of the rows as they were ingested.
        chosen: columns that are known of the selected samples.

    Raises:
        ConfigError: a column is unknown, or the rows have another column of that name.
    """
    original = list(original)
    new: list[str] = []
    for column in requested:
        if column in {*present, *new}:
            if column in original and column not in chosen and column not in new:
                continue
            raise ConfigError(
                f"columns: the rows have a column '{column}' of their own. Select with --sql and give the other column "
                "another name (AS), or remove it."
            )
        if column not in {*chosen, "source", *original}:
            raise ConfigError(
                f"columns: there is no column '{column}'.{did_you_mean(column, [*chosen, 'source', *original])}"
            )
        new.append(column)
    return new
