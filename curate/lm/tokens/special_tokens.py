"""Special tokens that somebody has typed: `<|im_end|>` in a user's text is text, and ends no turn.

A tokenizer finds its special tokens wherever they stand in a rendered conversation. So what is typed is hidden from it:
each of its characters goes to a private plane of Unicode, the template renders that, and a copy of the tokenizer that
knows its special tokens by their hidden names alone encodes the result with the two swapped: what the template wrote is
hidden, what was typed is text again. Lengths stay the same, so places in the text do, too.

Nothing is taken on trust: where a template makes something else of hidden text than of the text itself, or the
tokenizer makes a special token of plain text, the sample is refused.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PLANE = 0xF0000
PRIVATE = re.compile(f"[{chr(PLANE)}-{chr(PLANE + 0xFFFD)}]+")


class CannotEscape(Exception):
    """A special token that is typed in a text cannot be kept apart from those of the template."""


class SpecialTokens:
    """The special tokens of a tokenizer, and how text that holds them is encoded.

    Attributes:
        ids: of the special tokens, apart from the one that stands for what is unknown.
        told: that such a text was met has been said.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.told = False
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self.names = sorted(names - {""}, key=lambda name: (-len(name), name))
        self.ids = frozenset(map(self._id, self.names)) - {tokenizer.unk_token_id}
        self._any = re.compile("|".join(map(re.escape, self.names)) or "(?!)")
        self._heads = tuple({name[:n] for name in self.names for n in range(1, len(name))})
        self._tails = tuple({name[n:] for name in self.names for n in range(1, len(name))})

    def in_text(self, value: Any) -> bool:
        """Whether a text, or any text in mappings and lists, holds a special token, or a part of one at an end of it
        that may become one beside other text.
        """
        if isinstance(value, str):
            return bool(self._any.search(value)) or value.endswith(self._heads) or value.startswith(self._tails)
        if isinstance(value, Mapping):
            return any(self.in_text(part) for pair in value.items() for part in pair)
        return isinstance(value, (list, tuple)) and any(map(self.in_text, value))

    def whole_in(self, value: Any) -> bool:
        """Whether any text holds a whole special token."""
        if isinstance(value, str):
            return bool(self._any.search(value))
        if isinstance(value, Mapping):
            return any(self.whole_in(part) for pair in value.items() for part in pair)
        return isinstance(value, (list, tuple)) and any(map(self.whole_in, value))

    def escape(self, value: Any) -> Any:
        """The same with all of that hidden; `Unhidable` where a text has hidden characters of its own."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, Mapping):
            return {self.escape(key): self.escape(part) for key, part in value.items()}
        return [self.escape(part) for part in value] if isinstance(value, (list, tuple)) else value

    def _hidden(self, text: str) -> str:
        if PRIVATE.search(text):
            raise CannotEscape
        text = self._any.sub(lambda found: _up(found[0]), text)
        if text.endswith(self._heads):
            length = max(len(part) for part in self._heads if text.endswith(part))
            text = text[:-length] + _up(text[-length:])
        if text.startswith(self._tails):
            length = max(len(part) for part in self._tails if text.startswith(part))
            text = _up(text[:length]) + text[length:]
        return text

    def encode(self, hidden: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of rendered text in which what was typed is hidden, and each token's place in it.

        Raises:
            Unhidable: the tokenizer makes a special token of plain text.
        """
        either = re.compile(f"(?:{self._any.pattern})|{PRIVATE.pattern}")
        swapped = either.sub(lambda at: unescape(at[0]) if PRIVATE.match(at[0]) else _up(at[0]), hidden)
        encoding = self._copy.encode(swapped, add_special_tokens=False)
        if any(token in self.ids and token not in self._back for token in encoding.ids):
            raise CannotEscape
        return [self._back.get(token, token) for token in encoding.ids], encoding.offsets

    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer itself puts before and behind a text."""
        inner = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        outer = self.tokenizer("a")["input_ids"]
        start = next(n for n in range(len(outer)) if outer[n : n + len(inner)] == inner)
        return outer[:start], outer[start + len(inner) :]

    @functools.cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with its special tokens under their hidden names."""
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CannotEscape
        state = json.loads(backend.to_str())
        for token in state["added_tokens"]:
            if token["content"] in self.names:
                token["content"] = _up(token["content"])
        return Tokenizer.from_str(json.dumps(state | {"post_processor": None, "truncation": None, "padding": None}))

    @functools.cached_property
    def _back(self) -> dict[int, int]:
        """Token id in the copy -> in the tokenizer, of special tokens."""
        known = {name: self._copy.token_to_id(_up(name)) for name in self.names}
        return {there: self._id(name) for name, there in known.items() if there is not None}

    def _id(self, name: str) -> int:
        return int(cast(int, self.tokenizer.convert_tokens_to_ids(name)))


def unescape(text: str) -> str:
    """Hidden text as it was."""
    return PRIVATE.sub(lambda found: "".join(chr(ord(c) - PLANE) for c in found[0]), text)


def _up(text: str) -> str:
    return "".join(c if ord(c) >= PLANE else chr(ord(c) + PLANE) for c in text)
