"""Formats of instruction data: detect them by their columns, read rows as samples, and write samples as rows."""

from .detect import FORMATS, Layout, detect, parse_columns
from .preferences import parse_take
from .read import read_location
from .reading import Notes, ReadOptions, Row, Unusable
from .rows import FileLayouts, with_layout
from .to_rows import EXPORT_FORMATS, Traits, columns_of, to_rows
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
