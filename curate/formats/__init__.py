"""Formats of instruction data: detect them by their columns, read rows as samples, and write samples as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .detect import FORMATS, Layout, detect, parse_columns
from .to_rows import EXPORT_FORMATS, Traits, columns_of, to_rows

if TYPE_CHECKING:
    from .answers import parse_take
    from .read import read_location
    from .reading import Notes, ReadOptions, Row, Unusable
    from .rows import FileLayouts, with_layout
    from .to_samples import to_sample
    from .turns import parse_roles
    from .weights import WEIGHT, weight_of

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "WEIGHT",
    "FileLayouts",
    "Layout",
    "Notes",
    "ReadOptions",
    "Row",
    "Traits",
    "Unusable",
    "columns_of",
    "detect",
    "parse_columns",
    "parse_roles",
    "parse_take",
    "read_location",
    "to_rows",
    "to_sample",
    "weight_of",
    "with_layout",
]

HOMES = {
    "parse_take": ".answers",
    "read_location": ".read",
    **dict.fromkeys(("Notes", "ReadOptions", "Row", "Unusable"), ".reading"),
    **dict.fromkeys(("FileLayouts", "with_layout"), ".rows"),
    "to_sample": ".to_samples",
    "parse_roles": ".turns",
    **dict.fromkeys(("WEIGHT", "weight_of"), ".weights"),
}
"""Public name -> its module. `detect` and `to_rows` are not among them: their modules have the same names."""


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that the locations of inputs are known before pyarrow loads."""
    from importlib import import_module

    if name not in HOMES:
        raise AttributeError(f"module 'curate.formats' has no attribute '{name}'")
    return getattr(import_module(HOMES[name], __name__), name)
