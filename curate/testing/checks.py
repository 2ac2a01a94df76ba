"""What a law that does not hold says: which, of what, and what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Make = TypeVar("Make")


def hold(condition: object, seen: str) -> None:
    """`AssertionError` with what was seen, unless the condition holds; -O does not switch it off."""
    if not condition:
        raise AssertionError(seen)


def check_all(laws: Mapping[str, Callable[[Make], None]], make: Make, of: str) -> None:
    """Every law, in order; the first that does not hold is named."""
    for law, check in laws.items():
        try:
            check(make)
        except AssertionError as error:
            raise AssertionError(f"{of}: {law}. It does not hold: {error}") from error
