"""Find what a chat template takes and writes, by rendering small conversations once.

Templates differ in the form of a tool call's arguments (a mapping or JSON text), in the form of a message's content (a
text or a list of parts), and in what they write before an answer.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from ...samples import Message
from .rendering import LIMITS, RENDERER, Budget, Conversation, RenderError
from .untrained import FLAG_KEYS

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
QUESTION, ANSWER = "probe question", "probe answer"
NAME, KEY, VALUE = "probe_tool", "probe_key", "probe value"


class ChatTemplate:
    """A chat template.

    Attributes:
        text: the template.
        marked: True if it has `{% generation %}` marks.

    Args:
        text: the template.
        names: special tokens of the tokenizer by the name that templates use.
        date: day that the template writes as today's, YYYY-MM-DD.
    """

    def __init__(self, text: str, names: Mapping[str, Any], date: str) -> None:
        self.text, self._names, self._date, self._endless = text, names, date, False
        self.marked = MARKS.search(text) is not None

    def conversation(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> Conversation:
        """Return a conversation for the renderer. The messages have the form that the template takes."""
        return Conversation(messages, tools, self.text, self._names, self._date)

    def message(self, message: Message) -> dict[str, Any]:
        """Return a message in the form that the template takes, without nulls. The message itself stays as it is."""
        out = {
            key: copy.deepcopy(value) for key, value in message.items() if value is not None and key not in FLAG_KEYS
        }
        out.setdefault("content", "")
        calls = out.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and "arguments" in function:
                function["arguments"] = self._arguments(function["arguments"])
        if isinstance(out["content"], str) and self.takes_parts:
            out["content"] = [{"type": "text", "text": out["content"]}]
        return out

    def _arguments(self, value: Any) -> Any:
        if self.takes_argument_text:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            return value

    @functools.cached_property
    def takes_argument_text(self) -> bool:
        """True if the template writes a tool call's arguments only if they are JSON text, not a mapping."""
        mapping: dict[str, Any] = {KEY: VALUE}
        return not self._writes_call(mapping) and self._writes_call(json.dumps(mapping))

    def _writes_call(self, arguments: Any) -> bool:
        """Return whether a call is written with its arguments as one object: not as text in quotes, nor as Python."""
        text = self._probe([_user(), _call(arguments)], tools=[_tool()])
        return text is not None and VALUE in text and f'\\"{KEY}' not in text and f"'{KEY}'" not in text

    @functools.cached_property
    def takes_parts(self) -> bool:
        """True if the template writes a content only if it is a list of parts, as those of images do."""
        if QUESTION in (self._probe([_user()]) or ""):
            return False
        text = self._probe([_user() | {"content": [{"type": "text", "text": QUESTION}]}]) or ""
        return QUESTION in text and "'text'" not in text and '"text"' not in text  # a list that is written as it is

    @functools.cached_property
    def header(self) -> str:
        """Text that the template writes between a question and its answer; empty if that is unknown."""
        messages = [self.message(_user())]
        prompt, without = self._probe(messages, prompt=True), self._probe(messages)
        if prompt is None or without is None or not prompt.startswith(without):
            return ""
        return prompt[len(without) :]

    @functools.cached_property
    def reopened(self) -> str:
        """Text that the template writes after the end of a last answer if it begins another one unasked; else empty."""
        question, answer = self.message(_user()), self.message({"role": "assistant", "content": ANSWER})
        alone, followed = self._probe([question, answer]) or "", self._probe([question, answer, question]) or ""
        prompt = self._probe([question], prompt=True) or ""
        _, found, tail = alone.rpartition(ANSWER)
        other = alone[shared_length(alone, followed) :]
        if not (found and followed and other.strip() and prompt.endswith(other)):
            return ""
        end = str(self._names.get("eos_token") or "")
        return tail.rpartition(end)[2] if end and end in tail else other

    def ending(self, *, of_call: bool) -> str | None:
        """Return what the template writes after an answer's text or, `of_call`, after its tool call, at the end.

        None: it is unknown.
        """
        if not of_call:
            text = self._probe([self.message(_user()), self.message({"role": "assistant", "content": ANSWER})])
            _, found, tail = (text or "").rpartition(ANSWER)
        else:
            text = self._probe([self.message(_user()), self.message(_call({KEY: VALUE}))], tools=[_tool()])
            _, found, tail = (text or "").rpartition(VALUE)
        return tail.removesuffix(self.reopened) if found else None

    def example(self) -> str:
        """Return a rendered question with its answer, or an empty text."""
        return self._probe([self.message(_user()), self.message({"role": "assistant", "content": ANSWER})]) or ""

    def _probe(self, messages: list[dict[str, Any]], *, tools: Any = None, prompt: bool = False) -> str | None:
        """Return a rendered text, or None. A template that exceeds a limit once is not tried again."""
        if self._endless:
            return None
        chat = self.conversation(messages, tools)
        try:
            return RENDERER.render(chat, [(len(messages), prompt)], Budget(counted=False)).first
        except RenderError as error:
            self._endless = error.kind in LIMITS
            return None


def shared_length(first: str, second: str) -> int:
    """Return the number of characters with which both texts begin."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _user() -> dict[str, Any]:
    return {"role": "user", "content": QUESTION}


def _call(arguments: Any) -> dict[str, Any]:
    call = {"id": "probe0001", "type": "function", "function": {"name": NAME, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {KEY: {"type": "string", "description": "d"}}, "required": []}
    return {"type": "function", "function": {"name": NAME, "description": "d", "parameters": parameters}}


@functools.cache
def _manifest() -> dict[str, str]:
    found: dict[str, str] = json.loads(_folder().joinpath("manifest.json").read_text(encoding="utf-8"))
    return found


def _folder() -> Any:
    return files(__package__ or "").joinpath("training_templates")


def training_template(text: str) -> str | None:
    """Return the training template that belongs to exactly this stock template, or None."""
    import hashlib

    name = _manifest().get(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())
    return None if name is None else _folder().joinpath(name).read_text(encoding="utf-8")
