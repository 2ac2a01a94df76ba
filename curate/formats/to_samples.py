"""Turn a row of any format into a sample, or give the reason why it is rejected.

Reasons are short and few, so that they can be counted. Nothing is fixed silently, and texts are neither stripped nor
normalised. Each column is part of the conversation, metadata, or the reason of a reject; columns of metadata that look
like content are noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..samples import PLAIN_KEYS, TEXT_ROLE, Sample
from .answers import CHOSEN, PREFERENCE, check_label, is_number_label, only_answer, preferred, transcript, untrained
from .detect import LABEL_COLUMNS, MULTIPLE, Layout
from .parts.calls import from_json, tool_list
from .parts.flags import FLAG_KEYS, Message
from .parts.questions import with_matter
from .reading import ReadOptions, Unusable, as_text, check_storable, is_missing, looks_like_content, plain, shortened
from .turns import REASONING, ROLES, SPEAKERS, by_item, tools_within, turn, turns
from .weights import weight_column, weight_of

CONTENT_NAMES = frozenset((*LABEL_COLUMNS, *FLAG_KEYS))
CONTENT_NAMES |= {"context", "passage", "article", "evidence", "input", "choices", "options", "documents", "history"}
CONTENT_NAMES |= {"rationale", "explanation", "solution", "hint", "answer", "response", "completion", "output", "text"}
CONTENT_NAMES |= {"question", "prompt", "instruction", "system", "chosen", "rejected"}
"""Names of columns that are noted if they are metadata, however short their values are."""


def to_sample(row: Mapping[str, Any], layout: Layout, source: str = "", reading: ReadOptions | None = None) -> Sample:
    """Return a row as a sample.

    Args:
        row: column -> JSON-like value.
        layout: format of the row, and the columns of its parts.
        source: label of the file or dataset that the row came from.
        reading: how rows are read, and where it is noted what was done.

    Raises:
        Unusable: the row is not a conversation that a model can be trained on.
    """
    parts = _Parts(row, layout, reading or ReadOptions())
    _check_kind(parts)
    column = weight_column(row, layout, parts.reading)
    weight = 1.0 if column is None else weight_of(row, column, parts.reading)
    messages = READERS[layout.format](parts)
    tools = None
    if layout.format != "text":
        messages = _with_system(parts, messages)
        messages = _with_reasoning(parts, messages)
        tools = _tools(parts)
        _check(messages)
    sample = Sample(
        messages=messages,
        tools=tools,
        source=source,
        format="prompt-completion" if layout.format == "preference" else layout.format,
        original=row,
        metadata=parts.metadata(column),
        weight=weight,
    )
    check_storable(sample)
    _note_metadata(sample, layout, parts.reading)
    parts.reading.notes.see(
        layout, row, parts.reading.metadata if column is None else {column, *parts.reading.metadata}
    )
    return sample


def _check_kind(parts: _Parts) -> None:
    """Raise `Unusable` for rows with images or sound, and for preference or KTO data that the user did not ask for."""
    layout, row, reading = parts.layout, parts.row, parts.reading
    if layout.simple and reading.take is None:
        return
    for column in layout.media:
        if not is_missing(row.get(column)) and row[column] not in ("", [], {}):
            raise Unusable(
                f"content that is not text (column {shortened(column)}): --metadata-columns {column} ignores it"
            )
    if layout.format == "preference" and reading.take != CHOSEN:
        raise Unusable(PREFERENCE)
    if layout.format != "text" and (layout.label is not None or reading.take not in (None, CHOSEN)):
        check_label(row, layout, reading)


def _note_metadata(sample: Sample, layout: Layout, reading: ReadOptions) -> None:
    """Note the columns of metadata that look like content and are not contained in the messages, nor the reverse."""
    for column, value in sample.metadata.items():
        if column not in CONTENT_NAMES and not looks_like_content(value):
            continue
        if value == "" or is_missing(value) or column in reading.metadata or _is_settled(column, layout, reading):
            continue
        if isinstance(value, str):
            texts = [message.get("content") or "" for message in sample.messages]
            if any(value.strip() in text for text in texts) or all(text.strip() in value for text in texts):
                continue
        if column == layout.label and is_number_label(value):
            reading.notes.lose(
                f"the column {shortened(column)} has 0 or 1 and is metadata: if it says whether the answer is good, "
                f"--take {column}=true trains on the good ones; --metadata-columns {column} says that it does not"
            )
            continue
        reading.notes.lose(
            f"the column {shortened(column)} looks like content and is metadata: --columns PART={column} makes it a "
            f"part of the conversation, --metadata-columns {column} says that it is none"
        )


def _is_settled(column: str, layout: Layout, reading: ReadOptions) -> bool:
    """Return whether `--take` says what a column is: a label, or the rejected answer."""
    if reading.take is not None and column == reading.take[0]:
        return True
    return layout.format == "preference" and column in layout.columns.get("rejected", ())


class _Parts:
    """Parts of a conversation in a row; a part of the wrong type raises `Unusable`."""

    def __init__(self, row: Mapping[str, Any], layout: Layout, reading: ReadOptions) -> None:
        self.row = row
        self.layout = layout
        self.reading = reading
        self.unused: set[str] = set()

    def column(self, part: str) -> str | None:
        """Return the column that holds a part: the first that has a value. Others with another value are metadata."""
        columns = self.layout.columns.get(part)
        if columns is None:
            return None
        if len(columns) == 1:
            value = self.row.get(columns[0])
            return columns[0] if isinstance(value, str) or not is_missing(value) else None
        filled = [column for column in columns if not is_missing(self.row.get(column))]
        filled = [column for column in filled if self.row[column] not in ("", [])] or filled
        if not filled:
            return None
        others = [column for column in filled[1:] if self.row[column] != self.row[filled[0]]]
        self.unused.update(others)
        return filled[0]

    def get(self, part: str) -> Any:
        """Return the value of a part; None if there is none."""
        column = self.column(part)
        return None if column is None else self.row[column]

    def text(self, part: str) -> str:
        """Return a part that is text, or a number or truth value as text; "" if there is none."""
        columns = self.layout.columns.get(part)
        if columns is not None and len(columns) == 1 and isinstance(value := self.row.get(columns[0]), str):
            return value  # most parts
        column = self.column(part)
        if column is None:
            return ""
        value = self.row[column]
        if isinstance(value, str):
            return value
        text = as_text(value, f"the column {shortened(column)}", self.reading.notes)
        if text is None:
            raise self.wrong(part)
        return text

    def items(self, part: str) -> list[Any]:
        """Return a part that is a list, or JSON text of one (CSV); [] if there is none."""
        value = self.get(part)
        if isinstance(value, str):
            value = from_json(value) if value.strip() else None
        if value is None:
            return []
        if isinstance(value, Mapping):
            value = by_item(value)
        if not isinstance(value, list):
            raise self.wrong(part)
        return value

    def turns(self, part: str, role: str) -> list[Message]:
        """Return a part that is a list of turns, a single turn, or the text of one turn of `role`."""
        return self.turns_of(part, self.get(part), role)

    def turns_of(self, part: str, value: Any, role: str) -> list[Message]:
        """Return the turns of a value of a part; see `turns`."""
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list):
            return [message for item in value for message in turns(item, self.wrong(part), self.reading)]
        return [turn(role, value if isinstance(value, str) else self.text(part))]

    def wrong(self, part: str) -> Unusable:
        """Return the reason of a part that has the wrong type."""
        return Unusable(f"wrong type in column {self.column(part) or part}")

    def metadata(self, weight: str | None) -> dict[str, Any]:
        """Return the columns of the row that are neither part of the conversation nor its weight."""
        read = self.layout.read - self.unused if self.unused else self.layout.read
        return {column: value for column, value in self.row.items() if column not in read and column != weight}


def _messages(parts: _Parts) -> list[Message]:
    return _conversation(parts, "messages")


def _sharegpt(parts: _Parts) -> list[Message]:
    return _conversation(parts, "conversations")


def _conversation(parts: _Parts, part: str) -> list[Message]:
    """Return the messages of a list of turns, or of a list of texts, where question and answer alternate."""
    items, wrong = parts.items(part), parts.wrong(part)
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        parts.reading.notes.change(f"lists of texts in {part} read as question and answer in turn")
        return [turn(ROLES[1 + number % 2], text) for number, text in enumerate(items)]
    return [message for item in items for message in turns(item, wrong, parts.reading)]


def _alpaca(parts: _Parts) -> list[Message]:
    question = _question(parts, parts.text("instruction"))
    return [*_history(parts), turn("user", question), turn("assistant", parts.text("output"))]


def _history(parts: _Parts) -> list[Message]:
    """Return the turns before the question: pairs of question and answer, or turns."""
    messages: list[Message] = []
    for pair in parts.items("history") if "history" in parts.layout.columns else ():
        if isinstance(pair, Mapping):
            messages += turns(pair, parts.wrong("history"), parts.reading)
            continue
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise parts.wrong("history")
        messages += [turn("user", pair[0]), turn("assistant", pair[1])]
    return messages


def _question(parts: _Parts, question: str) -> str:
    """Return a question with its context, documents, input and choices below it."""
    matter = [(part, column, parts.row.get(column)) for part, column in parts.layout.matter]
    return with_matter(question, matter, parts.reading.notes)


def _prompt_completion(parts: _Parts) -> list[Message]:
    prompt = _prompt(parts)
    completion = _completion(parts)
    if not any(message["role"] == "assistant" for message in completion):
        raise Unusable("no assistant turn")
    _check_choice(parts, completion)
    return [*_history(parts), *prompt, *completion]


def _completion(parts: _Parts) -> list[Message]:
    column = parts.column("completion")
    if column is None:
        return parts.turns("completion", "assistant")
    tools = not is_missing(parts.get("tools"))
    return parts.turns_of("completion", only_answer(parts.row[column], column, tools=tools), "assistant")


def _prompt(parts: _Parts) -> list[Message]:
    """Return the turns of the prompt, with the context below the last question. None of them is trained on."""
    prompt = untrained(parts.turns("prompt", "user"))
    if not MULTIPLE.isdisjoint(parts.layout.columns):
        last = next((n for n in reversed(range(len(prompt))) if prompt[n]["role"] == "user"), None)
        if last is not None:
            prompt[last] = prompt[last] | {"content": _question(parts, prompt[last]["content"] or "")}
    return prompt


def _check_choice(parts: _Parts, completion: list[Message]) -> None:
    """Raise `Unusable` if an answer is a number that is none of the choices: an index, but from 0 or from 1?"""
    answer, choices = parts.get("completion"), parts.get("choices")
    if not isinstance(answer, int) or isinstance(answer, bool) or choices is None:
        return
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    if not isinstance(texts, list) or str(answer) not in map(str, texts):
        raise Unusable(
            f"the answer in column {parts.column('completion')} is a number and none of the choices: write its text"
        )


def _preference(parts: _Parts) -> list[Message]:
    parts.reading.notes.preferred = True
    rejected = _side(parts, "rejected")
    prompt = _asked(parts)
    parts.unused.update(parts.layout.columns.get("rejected", ()))
    if parts.get("chosen") is None:  # the conversation ends with the chosen answer, and the rejected one is next to it
        prompt, chosen = prompt[:-1], [_trained(message) for message in prompt[-1:]]
    else:
        chosen = _side(parts, "chosen")
    return [*_history(parts), *preferred(prompt, chosen, rejected)]


def _asked(parts: _Parts) -> list[Message]:
    """Return the turns of the prompt of a pair, which may be a dialogue as one text."""
    dialogue = transcript(parts.get("prompt"))
    if dialogue is not None:
        return untrained(dialogue)
    return [] if parts.get("prompt") is None else _prompt(parts)


def _side(parts: _Parts, part: str) -> list[Message]:
    """Return the turns of an answer of a pair, or of the dialogue that it ends, as turns or as one text."""
    value = parts.get(part)
    if value is None:
        return []
    return transcript(value) or parts.turns(part, "assistant")


def _trained(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "train"}


def _text(parts: _Parts) -> list[Message]:
    text = parts.text("text")
    speaker = next((parts.row[key] for key in ("role", "from") if isinstance(parts.row.get(key), str)), None)
    if speaker is not None and plain(speaker) in SPEAKERS:
        raise Unusable(
            f"one message of a conversation (of {shortened(speaker, 20)}): write all of its messages into one row"
        )
    if not text.strip():
        raise Unusable("empty text")
    return [turn(TEXT_ROLE, text)]


READERS: Mapping[str, Callable[[_Parts], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
    "preference": _preference,
}


def _with_system(parts: _Parts, messages: list[Message]) -> list[Message]:
    if "system" not in parts.layout.columns:
        return messages
    system = parts.text("system")
    if not system.strip():
        return messages
    own = [message["content"] for message in messages if message["role"] == "system"]
    if own == [system]:
        return messages
    if own:
        raise Unusable("two system messages")
    return [turn("system", system), *messages]


SWITCHES = frozenset({"", "on", "off", "true", "false", "yes", "no", "none"})
"""Texts in a column of reasoning that say whether there is any, and are none."""


def _with_reasoning(parts: _Parts, messages: list[Message]) -> list[Message]:
    """Return the messages, with the reasoning of a column in the answer that it belongs to."""
    if "reasoning" not in parts.layout.columns:
        return messages
    column = parts.column("reasoning")
    value = None if column is None else parts.row[column]
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if parts.layout.format != "messages" and parts.layout.format != "sharegpt":
        answers = answers[-1:]
    if not isinstance(value, str) or value.strip().lower() in SWITCHES:
        parts.unused.update([column] if column is not None and value != "" else [])
    elif (
        len(answers) == 1
        and REASONING[0] not in messages[answers[0]]
        and value.strip() not in (messages[answers[0]]["content"] or "")
    ):
        messages[answers[0]] = messages[answers[0]] | {REASONING[0]: value}
    else:
        parts.unused.add(str(column))
    return messages


WITH_SYSTEM = {"messages": "messages", "sharegpt": "conversations", "prompt-completion": "prompt"}
"""Format -> part whose system message may define tools."""


def _tools(parts: _Parts) -> list[Any] | None:
    """Return the definitions of tools, from a column or from a system message.

    Raises:
        Unusable: they differ in two places.
    """
    part = WITH_SYSTEM.get(parts.layout.format)
    if part is None and "tools" not in parts.layout.columns:
        return None
    found = []
    if "tools" in parts.layout.columns:
        value = parts.get("tools")
        found = [tool_list(value, parts.wrong("tools"), parts.reading)] if value is not None else []
    if part is not None and not isinstance(parts.get(part), str):
        found += [tool_list(value, parts.wrong(part), parts.reading) for value in tools_within(parts.get(part))]
    found = [tools for tools in found if tools]
    if any(tools != found[0] for tools in found):
        raise Unusable("two different lists of tools")
    return found[0] if found else None


def _check(messages: list[Message]) -> None:
    """Raise `Unusable` unless a user turn asks something, an answer is trained on and no answer is empty."""
    if (
        len(messages) == 2
        and messages[0]["role"] == "user"
        and messages[1].keys() == PLAIN_KEYS
        and messages[1]["role"] == "assistant"
        and (messages[0]["content"] or "").strip()
        and (messages[1]["content"] or "").strip()
    ):
        return  # most rows
    questions = [message for message in messages if message["role"] == "user"]
    answers = [message for message in messages if message["role"] == "assistant"]
    if not messages:
        raise Unusable("no messages")
    if not answers:
        raise Unusable("no assistant turn")
    if not questions:
        raise Unusable("no user turn")
    if not any(message["content"] and message["content"].strip() for message in questions):
        raise Unusable("empty prompt")
    if any(not (message["content"] or "").strip() and not message.get("tool_calls") for message in answers):
        raise Unusable("empty completion")
    if all(message.get("train") is False for message in answers):
        raise Unusable("flags of the messages leave no answer to train on")
