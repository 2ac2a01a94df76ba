"""Formats of instruction data: detect them by their columns, read rows as samples, and write samples as rows."""

from .detect import FORMATS, Layout, detect, parse_columns
from .read import read_location
from .rows import Row, with_layout
from .to_rows import EXPORT_FORMATS, Traits, columns_of, to_rows
from .to_samples import Unusable, to_sample

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "Layout",
    "Row",
    "Traits",
    "Unusable",
    "columns_of",
    "detect",
    "parse_columns",
    "read_location",
    "to_rows",
    "to_sample",
    "with_layout",
]
