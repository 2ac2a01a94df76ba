"""The token that ends an answer: one that the chat template writes, or the tokenizer's own.

A model that never sees an end does not stop. Some templates write none after the last answer, and the markers of others
are no tokens of the tokenizer. Then the tokenizer's end token is appended in training.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

import numpy as np

from ....log import LOGGER
from ..chat import Chat, MaskError
from ..chat_template import ChatTemplate
from ..masks import Mask
from ..special_tokens import SpecialTokens

MARKER = re.compile(r"<\|?[A-Za-z_][\w-]*\|?>")


class Ends:
    """Tell whether an answer ends, and end it.

    Args:
        special_tokens: the special tokens of the tokenizer.
    """

    def __init__(self, special_tokens: SpecialTokens) -> None:
        self._special_tokens = special_tokens
        self._tokenizer = special_tokens.tokenizer
        self._eos = self._tokenizer.eos_token_id
        self._ids = set(special_tokens.ids) | ({int(self._eos)} if isinstance(self._eos, int) else set())
        self._written: dict[tuple[str, bool], bool] = {}
        self._told = False

    def written(self, chat: Chat) -> bool:
        """Return whether the template of a conversation ends all of its answers with a token. True if untold."""
        kinds = {bool(chat.messages[turn].get("tool_calls")) for turn in chat.answers}
        return all([self._is_written(chat.template, of_call=kind) for kind in (False, True) if kind in kinds])

    def _is_written(self, template: ChatTemplate, *, of_call: bool) -> bool:
        key = (template.text, of_call)
        if key not in self._written:
            if not of_call:
                self._tell_markers(template.example())
            tail = template.ending(of_call=of_call)
            ids = self._tokenizer((tail or "").strip(), add_special_tokens=False)["input_ids"]
            if not of_call:
                self._ids |= {token for token in ids if token in self._tokenizer.added_tokens_decoder}
            self._written[key] = tail is None or any(token in self._ids for token in ids[-1:])
        return self._written[key]

    def _tell_markers(self, text: str) -> None:
        """Log which markers of a template are no tokens of the tokenizer."""
        pieces = {
            marker: len(self._tokenizer(marker, add_special_tokens=False)["input_ids"])
            for marker in dict.fromkeys(MARKER.findall(text))
            if marker.startswith("<|") or marker in ("<start_of_turn>", "<end_of_turn>")
        }
        pieces = {marker: count for marker, count in pieces.items() if count > 1}
        if pieces:
            names = ", ".join(f"{marker} ({count} tokens)" for marker, count in pieces.items())
            LOGGER.warning(
                f"The chat template writes markers that are no tokens of this tokenizer: {names}. The model learns "
                "them as text. Give a --chat-template whose markers the tokenizer knows, such as plain."
            )

    def is_end(self, token: int) -> bool:
        """Return whether a token is the tokenizer's end token, which a template may write before the next turn."""
        return bool(token == self._eos)

    def ended(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, end: int) -> bool:
        """Return whether the last token of text[:end] that is no white space ends an answer."""
        token = bisect.bisect_left(offsets, end, key=lambda offset: offset[0]) - 1
        while token >= 0 and ids[token] not in self._ids and not text[slice(*offsets[token])].strip():
            token -= 1
        return token >= 0 and ids[token] in self._ids

    def end(
        self, chat: Chat, ids: list[int], target: Mask, positions: Sequence[int], trained: Sequence[bool]
    ) -> tuple[list[int], Mask]:
        """Return tokens and mask with the tokenizer's end token before the tokens at some positions.

        Args:
            chat: the conversation.
            ids: its tokens.
            target: (L,) bool, True for those that are trained on.
            positions: positions in `ids`.
            trained: for each position, whether its end token is trained on.

        Raises:
            MaskError: the tokenizer has no end token.
        """
        if not positions:
            return ids, target
        if not isinstance(self._eos, int):
            raise self._no_end(chat)
        if not self._told:
            self._told = True
            LOGGER.warning(
                "The chat template writes no end token after an answer. In training "
                f"{self._tokenizer.eos_token!r}, the tokenizer's end token, is appended."
            )
        return np.insert(ids, positions, self._eos).tolist(), np.insert(target, positions, trained)

    def _no_end(self, chat: Chat) -> MaskError:
        return chat.error(
            "the chat template writes no end token after an answer, and the tokenizer has none",
            "Give another --chat-template.",
        )
