"""The rows of an export, from the samples that were chosen: some at a time, as often as they are asked for."""

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
    """Batches of rows in the asked format, with the asked columns. The first time round, every row is checked.

    Attributes:
        sources: how many samples come from each source.
        present: the columns that rows have by their format; of `original` where further columns are asked for.
        calls: whether tools are called in any of them; of `original` it is not looked for.

    Args:
        path: the chosen samples, in order, as `store.rows.gather` writes them.
        chosen: what was said of each when it was chosen.
        name: the format of the rows.
        columns: further columns: of `chosen`, of the sample, or of the row as it came.
    """

    def __init__(self, path: Path, chosen: pa.Table, name: str, columns: Sequence[str]) -> None:
        self.path, self.chosen, self.name = path, chosen, name
        self.sources: Counter[str] = Counter()
        self._traits, came = Traits(), dict[str, None]()
        self.calls = False
        if name == "original" and not columns:
            self._glance()
        else:
            for samples in self._samples():
                self.sources.update(sample.source for sample in samples)
                self._traits |= Traits.of(samples)
                self.calls |= any(message.get("tool_calls") for sample in samples for message in sample.messages)
                came |= dict.fromkeys(column for sample in samples for column in sample.original)
        self.present = set(came) if name == "original" else columns_of(name, self._traits)
        self._columns = _new_columns(columns, self.present, came, chosen.column_names)
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

    def _glance(self) -> None:
        """What rows as they came depend on, without reading them."""
        for batch in read_batches(self.path, ["source", "format"]):
            self.sources.update(batch.column("source").to_pylist())
            self._traits |= Traits(formats=frozenset(batch.column("format").to_pylist()))

    def _samples(self) -> Iterator[list[Sample]]:
        return ([from_row(row) for row in batch.to_pylist()] for batch in read_batches(self.path))

    def _values(self, column: str, samples: Sequence[Sample], start: int) -> list[Any]:
        """A further column of these samples, the first of which was chosen as number `start`."""
        if column in self.chosen.column_names:
            values: list[Any] = self.chosen[column].slice(start, len(samples)).to_pylist()
            return values
        if column == "source":
            return [sample.source for sample in samples]
        return [sample.original.get(column) for sample in samples]


def _new_columns(asked: Sequence[str], present: set[str], came: Iterable[str], chosen: Sequence[str]) -> list[str]:
    """The asked columns that the rows have not got yet; each must be known, and not clash with one of theirs."""
    came = list(came)
    new: list[str] = []
    for column in asked:
        if column in {*present, *new}:
            if column in came and column not in chosen and column not in new:
                continue
            raise ConfigError(
                f"columns: the rows have a column '{column}' of their own. Choose with --sql and name the other one "
                "otherwise (AS), or leave it out."
            )
        if column not in {*chosen, "source", *came}:
            raise ConfigError(
                f"columns: nothing is known as '{column}'.{did_you_mean(column, [*chosen, 'source', *came])}"
            )
        new.append(column)
    return new
