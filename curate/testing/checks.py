"""Run laws and report the first that is broken: its sentence, the selector, and the values observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Factory = TypeVar("Factory")


def expect(condition: object, otherwise: str) -> None:
    """Raise `AssertionError` with a message unless the condition is true. Python's option -O does not disable it."""
    if not condition:
        raise AssertionError(otherwise)


def check_all(laws: Mapping[str, Callable[[Factory], None]], factory: Factory, name: str) -> None:
    """Check laws in their order.

    Args:
        laws: sentence of a law -> function that checks it with selectors of the factory.
        factory: builds the selector to check.
        name: name of the selector, for the message.

    Raises:
        AssertionError: a law is broken; the message has its sentence and the values observed.
    """
    for law, check in laws.items():
        try:
            check(factory)
        except AssertionError as error:
            raise AssertionError(f"{name} breaks the law '{law}': {error}") from error
