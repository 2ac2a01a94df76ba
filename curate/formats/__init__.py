"""The shapes that instruction data comes in: told apart by their columns, read into samples, written back."""

from .convert import Unusable, to_sample
from .detect import FORMATS, Layout, detect, parse_columns
from .read import read_place
from .render import EXPORT_FORMATS, Traits, columns_of, render
from .rows import Row, with_layout

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
    "read_place",
    "render",
    "to_sample",
    "with_layout",
]
