"""Turn a row of any format into a sample, or give the reason why it is rejected.

Reasons are short and few, so that they can be counted. Nothing is fixed silently, and texts are neither stripped nor
normalised. Each column is part of the conversation, metadata, or the reason of a reject; columns of metadata that look
like content are noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..samples import PLAIN_KEYS, TEXT_ROLE, Sample
from .detect import LABEL_COLUMNS, MULTIPLE, QUESTION_PARTS, Layout
from .flags import FLAG_KEYS, Message
from .preferences import CHOSEN, PREFERENCE, check_label, preferred, untrained
from .reading import ReadOptions, Unusable, as_text, is_missing, looks_like_content, shortened
from .turns import REASONING, from_json, tool_list, tools_within, turn, turns
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
    _check_storable(sample)
    _note_metadata(sample, parts.reading)
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
        check_label(row, layout.label, reading)


def _note_metadata(sample: Sample, reading: ReadOptions) -> None:
    """Note the columns of metadata that look like content and are not contained in the messages, nor the reverse."""
    for column, value in sample.metadata.items():
        if column not in CONTENT_NAMES and not isinstance(value, (str, list, Mapping)):
            continue
        if value is None or value == "" or column in reading.metadata or not reading.notes.looks(column):
            continue
        if is_missing(value) or not (column in CONTENT_NAMES or looks_like_content(value)):
            continue
        if isinstance(value, str):
            texts = [message.get("content") or "" for message in sample.messages]
            if any(value.strip() in text for text in texts) or all(text.strip() in value for text in texts):
                continue
        reading.notes.lose(
            f"the column {shortened(column)} looks like content and is metadata: --columns PART={column} makes it a "
            f"part of the conversation, --metadata-columns {column} says that it is none"
        )


DEEPEST = 64
"""Maximum levels of lists and mappings in a row. All later readers, in Python or SQL, need stack for each level."""
LONGEST = 1 << 28
"""Maximum characters of a row."""


def _check_storable(sample: Sample) -> None:
    """Raise `Unusable` for text without UTF-8 (lone surrogates), and for values that not all JSON readers can read."""
    try:
        text = sample.original_json
        text.encode()
        sample.sample_id.encode()
    except UnicodeEncodeError:
        raise Unusable("not valid Unicode") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except (TypeError, ValueError):
        raise Unusable("not JSON") from None
    if len(text) > LONGEST:
        raise Unusable(f"longer than {LONGEST >> 20} MiB")
    if (
        text.count("[") + text.count("{") > DEEPEST
        and _depth([sample.original, sample.messages, sample.tools]) > DEEPEST
    ):
        raise Unusable("nested too deeply")


def _depth(parts: Any) -> int:
    """Return the number of levels below a list of values; counting stops at one more than `DEEPEST`."""
    depth, level = 0, list(parts)
    while level and depth <= DEEPEST:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
        level = [value for value in inner if isinstance(value, (Mapping, list, tuple))]
        depth += 1
    return depth


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
        if not isinstance(value, list):
            raise self.wrong(part)
        return value

    def turns(self, part: str, role: str) -> list[Message]:
        """Return a part that is a list of turns, a single turn, or the text of one turn of `role`."""
        value = self.get(part)
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list):
            return [message for item in value for message in turns(item, self.wrong(part), self.reading)]
        return [turn(role, self.text(part))]

    def wrong(self, part: str) -> Unusable:
        """Return the reason of a part that has the wrong type."""
        return Unusable(f"wrong type in column {self.column(part) or part}")

    def metadata(self, weight: str | None) -> dict[str, Any]:
        """Return the columns of the row that are neither part of the conversation nor its weight."""
        read = self.layout.read - self.unused if self.unused else self.layout.read
        return {column: value for column, value in self.row.items() if column not in read and column != weight}


def _messages(parts: _Parts) -> list[Message]:
    wrong = parts.wrong("messages")
    return [message for item in parts.items("messages") for message in turns(item, wrong, parts.reading)]


def _sharegpt(parts: _Parts) -> list[Message]:
    wrong = parts.wrong("conversations")
    return [message for item in parts.items("conversations") for message in turns(item, wrong, parts.reading)]


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
    texts = [question]
    for part in QUESTION_PARTS:
        if part not in parts.layout.columns:
            continue
        for column in parts.layout.columns[part]:
            value = parts.row.get(column)
            if isinstance(value, str):
                texts.append(value)
            elif not is_missing(value):
                listed = _listed(parts, part, column, value)
                if part != "choices" or not _lists_already("\n".join(texts), value):
                    texts.append(listed)
    return "\n\n".join(text for text in texts if text.strip())


def _lists_already(question: str, choices: Any) -> bool:
    """Return whether a question lists its choices itself: each of them ends a line."""
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    lines = [line.strip() for line in question.splitlines()]
    wanted = [str(text).strip() for text in texts] if isinstance(texts, list) else [str(texts)]
    return bool(wanted) and len(lines) > len(wanted) and all(any(line.endswith(t) for line in lines) for t in wanted)


def _listed(parts: _Parts, part: str, column: str, value: Any) -> str:
    """Return a part of a question that is no text: choices with letters, documents below each other."""
    if isinstance(value, Mapping) and part == "choices":
        labels, texts = value.get("label"), value.get("text")
    else:
        labels, texts = None, value
    if isinstance(texts, list):
        written = [_document(item, f"the column {shortened(column)}", parts) for item in texts]
        if part == "choices":
            letters = labels if isinstance(labels, list) else [chr(ord("A") + n) for n in range(len(texts))]
            if len(letters) == len(texts) <= 26 and None not in written:
                return "\n".join(f"{letter}. {text}" for letter, text in zip(letters, written, strict=True))
        elif None not in written and part in ("documents", "context"):
            return "\n\n".join(str(text) for text in written)
    elif not isinstance(texts, Mapping):
        text = as_text(texts, f"the column {shortened(column)}", parts.reading.notes)
        if text is not None:
            return text
    raise Unusable(f"wrong type in column {column}")


def _document(item: Any, where: str, parts: _Parts) -> str | None:
    """Return a document or a choice as text: a string, or title and text of a mapping."""
    if not isinstance(item, Mapping):
        return as_text(item, where, parts.reading.notes)
    text = next(
        (item[key] for key in ("text", "content", "contents", "passage") if isinstance(item.get(key), str)), None
    )
    title = item.get("title")
    return f"{title}\n{text}" if isinstance(title, str) and text is not None else text


def _prompt_completion(parts: _Parts) -> list[Message]:
    prompt = _prompt(parts)
    completion = parts.turns("completion", "assistant")
    if not any(message["role"] == "assistant" for message in completion):
        raise Unusable("no assistant turn")
    _check_choice(parts, completion)
    return [*_history(parts), *prompt, *completion]


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
    rejected = parts.turns("rejected", "assistant") if parts.get("rejected") is not None else []
    prompt = _prompt(parts) if parts.get("prompt") is not None else []
    parts.unused.update(parts.layout.columns.get("rejected", ()))
    if parts.get("chosen") is None:  # the conversation ends with the chosen answer, and the rejected one is next to it
        prompt, chosen = prompt[:-1], [_trained(message) for message in prompt[-1:]]
    else:
        chosen = parts.turns("chosen", "assistant")
    return [*_history(parts), *preferred(prompt, chosen, rejected)]


def _trained(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "train"}


def _text(parts: _Parts) -> list[Message]:
    text = parts.text("text")
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
    if any(message["role"] == "system" for message in messages):
        raise Unusable("two system messages")
    return [turn("system", system), *messages]


def _with_reasoning(parts: _Parts, messages: list[Message]) -> list[Message]:
    """Return the messages, with the reasoning of a column in the answer that it belongs to."""
    if "reasoning" not in parts.layout.columns:
        return messages
    column = parts.column("reasoning")
    value = None if column is None else parts.row[column]
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if parts.layout.format != "messages" and parts.layout.format != "sharegpt":
        answers = answers[-1:]
    if not isinstance(value, str) or not value.strip():
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
    found = []
    if "tools" in parts.layout.columns:
        value = parts.get("tools")
        found = [tool_list(value, parts.wrong("tools"), parts.reading)] if value is not None else []
    part = WITH_SYSTEM.get(parts.layout.format)
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
