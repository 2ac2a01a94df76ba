"""Encode special tokens in a user's text as plain text: `<|im_end|>` in a message does not end its turn.

A tokenizer finds its special tokens anywhere in a rendered conversation, also in the text of a message. So special
tokens in the text are escaped before rendering: each of their characters is moved to a private plane of Unicode. The
template renders the escaped text. Before encoding, the two kinds are swapped: the special tokens of the template are
escaped, and those in the text become plain text again. A copy of the tokenizer, which knows its special tokens only by
their escaped names, encodes the result. Escaping keeps lengths, so offsets in the text stay valid.

The result is checked. If a template renders escaped text differently from the text itself, or if the tokenizer makes a
special token from plain text, the sample is rejected.
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
"""First character of the private plane of Unicode that escaped text uses."""

PRIVATE = re.compile(f"[{chr(PLANE)}-{chr(PLANE + 0xFFFD)}]+")


class CannotEscape(Exception):
    """A special token in a text cannot be separated from those of the template."""


class SpecialTokens:
    """The special tokens of a tokenizer: find, escape and encode text that contains them.

    Attributes:
        names: special tokens as text, longest first.
        ids: token ids of the special tokens, without the unknown token.
        reported: True once a warning about a text with special tokens has been logged.

    Args:
        tokenizer: tokenizer of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.reported = False
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self.names = sorted(names - {""}, key=lambda name: (-len(name), name))
        self.ids = frozenset(map(self._id, self.names)) - {tokenizer.unk_token_id}
        self._pattern = re.compile("|".join(map(re.escape, self.names)) or "(?!)")
        self._prefixes = tuple({name[:n] for name in self.names for n in range(1, len(name))})
        self._suffixes = tuple({name[n:] for name in self.names for n in range(1, len(name))})

    def in_text(self, value: Any) -> bool:
        """Return whether a text contains a special token, or begins or ends with a part of one.

        Such a part may become a special token when it is joined with other text. Mappings and lists are searched for
        texts.
        """
        if isinstance(value, str):
            return (
                bool(self._pattern.search(value)) or value.endswith(self._prefixes) or value.startswith(self._suffixes)
            )
        if isinstance(value, Mapping):
            return any(self.in_text(part) for pair in value.items() for part in pair)
        return isinstance(value, (list, tuple)) and any(map(self.in_text, value))

    def complete_in_text(self, value: Any) -> bool:
        """Return whether a text contains a complete special token. Mappings and lists are searched for texts."""
        if isinstance(value, str):
            return bool(self._pattern.search(value))
        if isinstance(value, Mapping):
            return any(self.complete_in_text(part) for pair in value.items() for part in pair)
        return isinstance(value, (list, tuple)) and any(map(self.complete_in_text, value))

    def escape(self, value: Any) -> Any:
        """Return the value with all special tokens and parts of them escaped, in a text or in mappings and lists.

        Raises:
            CannotEscape: a text already contains characters of the private plane.
        """
        if isinstance(value, str):
            return self._escape_text(value)
        if isinstance(value, Mapping):
            return {self.escape(key): self.escape(part) for key, part in value.items()}
        return [self.escape(part) for part in value] if isinstance(value, (list, tuple)) else value

    def _escape_text(self, text: str) -> str:
        if PRIVATE.search(text):
            raise CannotEscape
        text = self._pattern.sub(lambda match: _to_private(match[0]), text)
        if text.endswith(self._prefixes):
            length = max(len(part) for part in self._prefixes if text.endswith(part))
            text = text[:-length] + _to_private(text[-length:])
        if text.startswith(self._suffixes):
            length = max(len(part) for part in self._suffixes if text.startswith(part))
            text = _to_private(text[:length]) + text[length:]
        return text

    def encode(self, escaped: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of an escaped, rendered text, and the (start, end) of each token in it.

        Raises:
            CannotEscape: the tokenizer makes a special token from plain text.
        """
        either = re.compile(f"(?:{self._pattern.pattern})|{PRIVATE.pattern}")
        swapped = either.sub(
            lambda match: unescape(match[0]) if PRIVATE.match(match[0]) else _to_private(match[0]), escaped
        )
        encoding = self._escaped_tokenizer.encode(swapped, add_special_tokens=False)
        if any(token in self.ids and token not in self._original_ids for token in encoding.ids):
            raise CannotEscape
        return [self._original_ids.get(token, token) for token in encoding.ids], encoding.offsets

    def added_around_text(self) -> tuple[list[int], list[int]]:
        """Return the special tokens that the tokenizer itself adds before and after a text."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        start = next(n for n in range(len(full)) if full[n : n + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]

    @functools.cached_property
    def _escaped_tokenizer(self) -> Tokenizer:
        """A copy of the tokenizer that knows its special tokens only by their escaped names."""
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CannotEscape
        state = json.loads(backend.to_str())
        for token in state["added_tokens"]:
            if token["content"] in self.names:
                token["content"] = _to_private(token["content"])
        return Tokenizer.from_str(json.dumps(state | {"post_processor": None, "truncation": None, "padding": None}))

    @functools.cached_property
    def _original_ids(self) -> dict[int, int]:
        """Token ids of the special tokens: id in the copy -> id in the tokenizer."""
        copied = {name: self._escaped_tokenizer.token_to_id(_to_private(name)) for name in self.names}
        return {copied_id: self._id(name) for name, copied_id in copied.items() if copied_id is not None}

    def _id(self, name: str) -> int:
        return int(cast(int, self.tokenizer.convert_tokens_to_ids(name)))


def unescape(text: str) -> str:
    """Return an escaped text in its original characters."""
    return PRIVATE.sub(lambda match: "".join(chr(ord(c) - PLANE) for c in match[0]), text)


def _to_private(text: str) -> str:
    return "".join(c if ord(c) >= PLANE else chr(ord(c) + PLANE) for c in text)
