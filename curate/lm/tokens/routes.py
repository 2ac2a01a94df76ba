"""The two routes from a conversation to tokens: whole, or one answer at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Turns = Literal["auto", "whole", "expand"]
"""`whole` encodes a conversation as one text, `expand` each answer with its prompt, `auto` chooses for each sample."""


@dataclass(frozen=True)
class Route:
    """The way from a conversation to tokens.

    Attributes:
        expand: True if each answer is a sample of its own (`Sample.answer`), False if the conversation is one text.
        reason: why, in one line.
    """

    expand: bool
    reason: str

    @property
    def name(self) -> str:
        """`expand` or `whole`."""
        return "expand" if self.expand else "whole"
