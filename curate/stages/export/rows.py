"""Make the rows of an export from the selected samples, batch by batch.

The rows can be iterated several times; only one batch is in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import ConfigError, did_you_mean
from ...formats import Traits, columns_of, to_rows
from ...samples import Sample, from_row
from ...store.rows.out_of_core import read_batches


class ChosenRows:
    """Batches of rows in a format, with further columns. The first iteration checks every row.

    Attributes:
        sources: source -> number of samples from it.
        present: columns that the rows have by their format; for `original`, only known if further columns are given.
        calls: True if a message of any sample calls a tool; for `original` without further columns, always False.

    Args:
        path: file with the selected samples in order, as `gather` of `store.rows.out_of_core` writes it.
        chosen: one record per selected sample, in order: `sample_id`, and columns such as score and weight.
        name: format of the rows.
        columns: further columns: of `chosen`, of the sample, or of the row as it was ingested.
    """

    def __init__(self, path: Path, chosen: pa.Table, name: str, columns: Sequence[str]) -> None:
        self.path, self.chosen, self.name = path, chosen, name
        self.sources: Counter[str] = Counter()
        self._traits, original = Traits(), dict[str, None]()
        self.calls = False
        if name == "original" and not columns:
            self._read_sources_and_formats()
        else:
            for samples in self._samples():
                self.sources.update(sample.source for sample in samples)
                self._traits |= Traits.of(samples)
                self.calls |= any(message.get("tool_calls") for sample in samples for message in sample.messages)
                original |= dict.fromkeys(column for sample in samples for column in sample.original)
        self.present = set(original) if name == "original" else columns_of(name, self._traits)
        self._columns = _new_columns(columns, self.present, original, chosen.column_names)
        self._checked = False

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        start = 0
        for samples in self._samples():
            rows = to_rows(samples, self.name, self._traits, check=not self._checked)
            for column in self._columns:
                values = self._values(column, samples, start)
                rows = [row | {column: value} for row, value in zip(rows, values, strict=True)]
            yield rows
            start += len(rows)
        self._checked = True

    def _read_sources_and_formats(self) -> None:
        """Read the two columns that rows in the format `original` depend on, without reading the rows."""
        for batch in read_batches(self.path, ["source", "format"]):
            self.sources.update(batch.column("source").to_pylist())
            self._traits |= Traits(formats=frozenset(batch.column("format").to_pylist()))

    def _samples(self) -> Iterator[list[Sample]]:
        return ([from_row(row) for row in batch.to_pylist()] for batch in read_batches(self.path))

    def _values(self, column: str, samples: Sequence[Sample], start: int) -> list[Any]:
        """Return the values of a further column for these samples.

        Args:
            column: name of the column.
            samples: a batch of selected samples.
            start: number of the batch's first sample among all selected ones.
        """
        if column in self.chosen.column_names:
            values: list[Any] = self.chosen[column].slice(start, len(samples)).to_pylist()
            return values
        if column == "source":
            return [sample.source for sample in samples]
        return [sample.original.get(column) for sample in samples]


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
