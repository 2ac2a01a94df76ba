"""What a chat template itself renders, and whether encoded samples are right: an oracle that knows nothing of curate.

Texts are rendered by transformers (`apply_chat_template`). Each turn of a chat holds words that stand nowhere else, so
the turns can be found in a text. An encoded sample is right if its text is one that the template renders, and its
trained tokens are an answer with its calls, its reasoning and its end, and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

Message = dict[str, Any]
DAY = "2026-11-29"


@dataclass(frozen=True)
class ChatCase:
    """A chat to render.

    Attributes:
        name: what is special about it.
        messages: its turns.
        tools: its tools.
    """

    name: str
    messages: Sequence[Message]
    tools: Sequence[Any] = ()

    @property
    def answers(self) -> list[int]:
        """Positions of the assistant's turns."""
        return [turn for turn, message in enumerate(self.messages) if message["role"] == "assistant"]


def words_of(message: Message, *, reasoning: bool = True) -> list[str]:
    """Return what must stand in the text of a turn: its content, its reasoning, and the names and values of calls."""
    found = [message.get("content") or "", (message.get("reasoning_content") or "") if reasoning else ""]
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        values = (json.loads(arguments) if isinstance(arguments, str) else arguments).values()
        found += [call["function"]["name"], *map(str, values)]
    return [word for word in found if word]


WEATHER = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "description": "Tells how it is outside.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}
USER = ({"role": "user", "content": "How many legs has a spider?"}, {"role": "user", "content": "And a beetle, then?"})
ANSWER = (
    {"role": "assistant", "content": "Eight, in four pairs."},
    {"role": "assistant", "content": "Six of them."},
)
CALL = {"id": "call00001", "type": "function"} | {
    "function": {"name": "look_up_weather", "arguments": {"city": "Turku"}}
}
TOOL_TURNS = (
    {"role": "user", "content": "Do I need a coat in Finland?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up_weather", "tool_call_id": "call00001", "content": "minus eleven degrees"},
    {"role": "assistant", "content": "Yes, wear something warm."},
)
CASES = (
    ChatCase("one turn", (USER[0], ANSWER[0])),
    ChatCase("several turns", (USER[0], ANSWER[0], USER[1], ANSWER[1])),
    ChatCase("system", ({"role": "system", "content": "Speak like a zoologist."}, USER[0], ANSWER[0])),
    ChatCase("tools", TOOL_TURNS, (WEATHER,)),
    ChatCase("reasoning", (USER[0], ANSWER[0] | {"reasoning_content": "Arachnids differ from insects."})),
    ChatCase("assistant first", ({"role": "assistant", "content": "Ask me about animals."}, USER[0], ANSWER[0])),
    ChatCase("two users", (USER[0], USER[1], ANSWER[1])),
    ChatCase("ends with user", (USER[0], ANSWER[0], USER[1])),
)
"""Eight chats. No content of a turn is part of another, so each is found where it stands."""


@dataclass
class Truth:
    """What a template does with a chat.

    Attributes:
        error: why it does not render the chat; None if it does.
        left_out: contents of turns that its text does not have, of all answers and their prompts.
        wholes: texts of the whole chat that are right: the template's, and that of a training template.
        prompts: for each answer the text before it at inference; none for a first turn that the template does not
            take as a prompt of no message.
        answers: for each answer the text up to it and with it.
    """

    error: str | None = None
    left_out: list[str] = field(default_factory=list)
    wholes: list[str] = field(default_factory=list)
    prompts: dict[int, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)


class Midnight:
    """The class `datetime` on the frozen day, for transformers."""

    @staticmethod
    def now(tz: datetime.tzinfo | None = None) -> datetime.datetime:
        """Return the beginning of the day."""
        return datetime.datetime.fromisoformat(DAY)


def on_the_day() -> Any:
    """Return a context in which templates that transformers renders read the frozen day."""
    from transformers.utils import chat_template_utils

    return mock.patch.object(chat_template_utils, "datetime", Midnight)


def render(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], **kwargs: Any) -> str:
    """Return the text that transformers renders."""
    with on_the_day():
        return str(tokenizer.apply_chat_template(list(messages), tools=list(tools) or None, tokenize=False, **kwargs))


def as_text(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose calls have their arguments as JSON text, as some templates want them."""
    found = json.loads(json.dumps(list(messages)))
    for message in found:
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return list(found)


def as_parts(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose contents are lists of parts, as templates of models for images want them."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def truth_of(tokenizer: Any, case: ChatCase, training: str | None = None) -> Truth:
    """Render a chat as transformers does, in the form that the template takes.

    Arguments of calls are mappings or JSON text, and contents are texts or lists of parts.

    Args:
        tokenizer: the tokenizer with the template.
        case: the chat.
        training: a training template whose text is right as well.
    """
    truths = []
    plain, text = list(case.messages), as_text(case.messages)
    for messages in (plain, text, as_parts(plain), as_parts(text)):
        try:
            truths.append(_truth(tokenizer, case, messages, training))
        except Exception as error:  # a template may fail in any way
            truths.append(Truth(error=f"{type(error).__name__}: {error}"[:200]))
    best = min(truths, key=lambda truth: (truth.error is not None, len(truth.left_out), _escaped(truth)))
    return best


def _escaped(truth: Truth) -> bool:
    return any('\\"city\\"' in text for text in [*truth.wholes, *truth.answers.values()])


def _truth(tokenizer: Any, case: ChatCase, messages: list[Message], training: str | None) -> Truth:
    truth = Truth()
    for turn in case.answers:
        try:
            truth.prompts[turn] = render(tokenizer, messages[:turn], case.tools, add_generation_prompt=True)
        except Exception:  # few templates take no message at all
            if turn:
                raise
        truth.answers[turn] = render(tokenizer, messages[: turn + 1], case.tools)
        text = truth.answers[turn]
        for position, message in enumerate(case.messages[: turn + 1]):
            missing = [w for w in words_of(message, reasoning=position == turn) if not stands_in(w, text)]
            truth.left_out += [word for word in missing if word not in truth.left_out]
    truth.wholes = [render(tokenizer, messages, case.tools)]
    if training is not None:
        with contextlib.suppress(Exception):  # the training template does not take this chat
            truth.wholes.append(render(tokenizer, case.messages, case.tools, chat_template=training))
    if case.answers[-1] < len(messages) - 1:
        after = [word for message in case.messages[case.answers[-1] + 1 :] for word in words_of(message)]
        truth.left_out += [word for word in after if not stands_in(word, truth.wholes[0])]
    return truth


def stands_in(word: str, text: str) -> bool:
    """Return whether a content stands in a text, without regard to space around it."""
    return word.strip() in text


# Encoded samples


@dataclass(frozen=True)
class Tokens:
    """An encoded sample.

    Attributes:
        ids: token ids.
        trained: for each token whether the loss trains on it.
        answer: the only turn that is trained on, or None for all answers.
    """

    ids: Sequence[int]
    trained: Sequence[bool]
    answer: int | None = None

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each run of trained tokens."""
        start = None
        for position, trained in enumerate([*self.trained, False]):
            if trained and start is None:
                start = position
            elif not trained and start is not None:
                yield start, position
                start = None


Decode = Callable[[Sequence[int]], str]


def fault_of(tokens: Tokens, case: ChatCase, truth: Truth, decode: Decode, ends: frozenset[int]) -> str | None:
    """Return what is wrong with an encoded sample, or None.

    Args:
        tokens: the sample.
        case: the chat.
        truth: what the template renders.
        decode: returns the text of token ids, with special tokens.
        ends: ids of special tokens, of which one ends an answer.
    """
    runs = list(tokens.runs())
    wanted = [tokens.answer] if tokens.answer is not None else case.answers
    if len(runs) != len(wanted):
        return f"{len(runs)} trained parts, and {len(wanted)} answers"
    turn, (start, end) = wanted[0], runs[0]
    # A whole conversation with one answer may be that answer after its prompt: this is the text of inference.
    alone = len(wanted) == 1 and decode(tokens.ids[:start]) == truth.prompts.get(turn)
    if tokens.answer is not None and not alone and turn in truth.prompts:
        return f"the prompt of turn {turn + 1} is not that of inference"
    added = [end - 1 for _, end in runs if tokens.ids[end - 1] in ends]
    text = decode([token for position, token in enumerate(tokens.ids) if position not in added])
    # A template that writes no stop token gets one in training; it must not stand beside one of the template's.
    text = text if text in truth.wholes else decode(tokens.ids)
    if twice := next((at for at in added if tokens.ids[at : at + 1] == tokens.ids[at + 1 : at + 2]), None):
        return f"the end token {decode(tokens.ids[twice : twice + 1])!r} stands there twice"
    if not alone and tokens.answer is None and text not in truth.wholes:
        return "the text is not what the template renders"
    last = tokens.answer is not None or text not in truth.wholes
    if alone and last and decode(tokens.ids[end:]).strip():
        return f"text after the answer of turn {turn + 1}"
    if missing := _missing(case, wanted, text, whole=not alone and tokens.answer is None):
        return f"left out in silence: {missing!r}"
    for turn, (start, end) in zip(wanted, runs, strict=True):
        before, answer = decode(tokens.ids[:start]), decode(tokens.ids[start:end])
        fault = _answer_fault(case, turn, answer) or _header_fault(truth.prompts, case, turn, before, answer)
        if fault:
            return f"turn {turn + 1}: {fault}"
        if not _ends(tokens.ids, start, end, ends, case, turn, decode):
            return f"turn {turn + 1}: its end is not trained on"
    return None


def _missing(case: ChatCase, wanted: Sequence[int], text: str, *, whole: bool) -> str | None:
    """Return a content that a text lacks: of all turns, or of those up to its answer. Earlier reasoning may go."""
    shown = case.messages if whole else case.messages[: wanted[-1] + 1]
    words = [w for turn, message in enumerate(shown) for w in words_of(message, reasoning=turn in wanted)]
    return next((word for word in words if not stands_in(word, text)), None)


def _answer_fault(case: ChatCase, turn: int, answer: str) -> str | None:
    own = words_of(case.messages[turn])
    # Reasoning may open in the prompt, and a whole conversation drops the reasoning of earlier turns.
    if missing := [word for word in own if not stands_in(word, answer)]:
        return f"{missing[0]!r} is not trained on"
    others = {word for position, message in enumerate(case.messages) if position != turn for word in words_of(message)}
    if foreign := [word for word in sorted(others - set(own)) if word in answer]:
        return f"{foreign[0]!r} of another turn is trained on"
    rest = answer
    for word in own:
        rest = rest.replace(word.strip(), "")
    if len(rest.split()) > WORDS:
        return f"more than the answer is trained on: {rest[:60]!r}"
    return None


WORDS = 14
"""Words that a template writes around the content, the reasoning and the calls of an answer, at most."""


def _header_fault(prompts: Mapping[int, str], case: ChatCase, turn: int, before: str, answer: str) -> str | None:
    """Return a fault if the header of a turn is trained on, or a system text that the template adds by itself.

    The header is what a prompt of inference ends with, after the last sentence. What it opens for the answer, such as a
    part for reasoning, may be trained on in a whole conversation.
    """
    beginning = answer[: min((answer.find(word.strip()) for word in words_of(case.messages[turn])), default=0)]
    for prompt in prompts.values():
        header = re.split(r"[.?!]|degrees", prompt)[-1].strip()
        header = re.sub(r"\s*(<think>|\[THINK\])\s*(</think>|\[/THINK\])?$", "", header)
        suffixes = (header[-length:] for length in range(3, len(header) + 1))
        if part := next((suffix for suffix in suffixes if beginning.strip().startswith(suffix)), None):
            return f"the header {part!r} is trained on"
    own = prompts.get(turn, "")
    if own and not before and answer.startswith(own[:12]):
        return f"the beginning of the text is trained on: {answer[:40]!r}"
    return None


def _ends(
    ids: Sequence[int], start: int, end: int, ends: frozenset[int], case: ChatCase, turn: int, decode: Decode
) -> bool:
    """Return whether the trained part has the special token that follows the answer, if one does."""
    last = max(case.messages[turn].get("content") or "", "", key=len).strip()
    position = next((n for n in range(start, end + 1) if not last or last in decode(ids[start:n])), end)
    following = next((n for n in range(max(position, start), len(ids)) if ids[n] in ends), None)
    if following is None:
        return True
    between = decode(ids[end:following]) if following >= end else ""
    others = {word for other, message in enumerate(case.messages) if other != turn for word in words_of(message)}
    return following < end or any(word in between for word in others)


def ground(truth: Truth, reason: str) -> bool:
    """Return whether a refusal is true: the template raises, or it leaves something out and the reason says so."""
    if truth.error is not None:
        return True
    said = re.search(r"leaves? out|left out|drops?|missing|does not (write|render|show)|lacks|not in", reason)
    return bool(truth.left_out) and said is not None


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return verdict -> number of rows."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["verdict"]] = found.get(row["verdict"], 0) + 1
    return found
