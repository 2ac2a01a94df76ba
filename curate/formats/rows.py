"""Find the layout of each row of each file: columns may appear late, and rows of one file may have several formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .answers import numbers_judge
from .detect import FORMATS, Layout, detect, fits, layout_of, missing_column
from .reading import ReadOptions, Row, Unusable, is_missing, shortened

MOST_LAYOUTS = 1000
"""Different sets of columns whose layouts are kept, at most: a file may have other columns in every row."""


class FileLayouts:
    """The layouts of the rows of one file: columns may appear late, and rows may have several formats.

    A row has the format that most of the file's first rows have, if it has the columns of that format; or else another
    format whose columns it has. Finding the layout of a row takes one look-up by the names of its columns.

    Args:
        rows: the first rows of the file.
        given: part -> column, from the user.
        where: name of the file for errors.
        reading: how rows are read.

    Raises:
        DataError, ConfigError: as `detect`.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], where: str, reading: ReadOptions
    ) -> None:
        self.main = detect(rows, given, where, reading.metadata)
        self.given, self.where, self.reading = given, where, reading
        self._layouts: dict[tuple[str, ...], list[Layout]] = {}
        self._seen: dict[str, None] = {}
        self.judged = False
        self.judged = self._numbers_judge(rows)
        self._layouts = {}

    def of(self, row: Mapping[str, Any]) -> Layout:
        """Return the layout of a row.

        Raises:
            Unusable: the columns of the row fit no format.
        """
        names = tuple(row)
        layouts = self._layouts.get(names)
        if layouts is None:
            layouts = self._candidates(names)
            if len(self._layouts) < MOST_LAYOUTS:
                self._layouts[names] = layouts
            self._seen |= dict.fromkeys(names)
        if len(layouts) == 1:
            return layouts[0]
        if not layouts:
            listed = ", ".join(shortened(name, 20) for name in names[:4]) + (", ..." if len(names) > 4 else "")
            raise Unusable(f"columns that fit no format ({listed or 'none'}): name them with --columns")
        return next((layout for layout in layouts if fits(layout, row)), layouts[0])

    def check_given(self) -> None:
        """Raise `DataError` if no row of the file has a column that the user gave."""
        for part, column in self.given.items():
            if column not in self._seen:
                raise missing_column(self.where, part, column, list(self._seen))

    def _numbers_judge(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether labels of 0 and 1 make the rows KTO data.

        They do if the rows have no columns but the conversation and the label, as TRL writes KTO data; see
        `answers.numbers_judge`.
        """
        labelled = []
        for row in rows:
            try:
                layout = self.of(row)
            except Unusable:
                continue
            if layout.label is None or layout.format in ("text", "preference") or is_missing(row.get(layout.label)):
                continue
            if set(row) - layout.read - {layout.label} - self.reading.metadata:
                return False
            labelled.append((row[layout.label], *_sides(row, layout)))
        return numbers_judge(labelled)

    def _candidates(self, names: Sequence[str]) -> list[Layout]:
        """Return the layouts of rows with these columns, in the order in which they are tried."""
        existing = [name for name in names if name not in self.reading.metadata]
        others = [name for name in FORMATS if name not in (self.main.format, "preference", "text")]
        order = ["preference", self.main.format, *others]
        order = list(dict.fromkeys(order))
        made = {name: replace(layout_of(name, existing, self.given), judged=self.judged) for name in order}
        main = made[self.main.format]
        found = [layout for name, layout in made.items() if self._possible(layout)]
        if not any(part in main.columns for part in FORMATS[main.format].required):
            text = layout_of("text", existing, self.given)
            found += [text] if self._possible(text) and main.format != "text" else []
        elif main not in found:
            found.append(main)  # a part is missing: the reason of the reject says which
        return found

    def _possible(self, layout: Layout) -> bool:
        parts = FORMATS[layout.format]
        if not set(self.given) <= set(parts.required + parts.optional):
            return False
        if layout.format == "preference":
            return "chosen" in layout.columns or "rejected" in layout.columns
        return all(part in layout.columns for part in parts.required)


def _sides(row: Mapping[str, Any], layout: Layout) -> tuple[Any, Any]:
    """Return the question and the answer of a row, as they stand in it."""
    parts = FORMATS[layout.format].required
    values = {part: [row.get(column) for column in layout.columns[part]] for part in layout.columns}
    answer: Any = values.pop(parts[-1])
    if len(parts) == 1 and isinstance(answer[0], list):
        return answer[0][:-1], answer[0][-1:]
    return values, answer


def with_layout(
    rows: Iterable[Row], given: Mapping[str, str], reading: ReadOptions | None = None, peek: int = 100
) -> Iterator[tuple[Row, Layout | None]]:
    """Yield each row with its layout. The format of a file is detected from its first `peek` readable rows.

    A row whose columns fit no format becomes a row with a reason. Unreadable rows are not held back: they may come
    before the first rows.

    Raises:
        DataError: no row of a file fits a format, or none has a column in `given`.
    """
    reading = reading or ReadOptions()
    head: list[Row] = []
    layouts: FileLayouts | None = None
    file = None
    for row in rows:
        if row.file != file:
            yield from _last(head, layouts, given, reading)
            head, layouts, file = [], None, row.file
        if row.values is None:
            yield row, None
        elif layouts is not None:
            yield _with_its_layout(row, layouts)
        else:
            head.append(row)
            if len(head) == peek:
                layouts = _detected(head, given, reading)
                for held in head:
                    yield _with_its_layout(held, layouts)
                head = []
    yield from _last(head, layouts, given, reading)


def _last(
    head: list[Row], layouts: FileLayouts | None, given: Mapping[str, str], reading: ReadOptions
) -> Iterator[tuple[Row, Layout | None]]:
    """Yield the rows of a file that are still held back, and check that it has the columns that the user gave."""
    if head:
        layouts = _detected(head, given, reading)
        for row in head:
            yield _with_its_layout(row, layouts)
    if layouts is not None:
        layouts.check_given()


def _detected(head: list[Row], given: Mapping[str, str], reading: ReadOptions) -> FileLayouts:
    return FileLayouts([row.values for row in head if row.values is not None], given, head[0].file, reading)


def _with_its_layout(row: Row, layouts: FileLayouts) -> tuple[Row, Layout | None]:
    assert row.values is not None
    try:
        return row, layouts.of(row.values)
    except Unusable as reason:
        return Row(row.file, row.number, None, str(reason)), None
