"""Write what a question is about below it: context, documents, input and choices, each from any number of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..reading import Notes, Unusable, as_text, is_missing, shortened


def with_matter(question: str, matter: Iterable[tuple[str, str, Any]], notes: Notes) -> str:
    """Return a question with its context, documents, input and choices below it.

    Args:
        question: text of the question.
        matter: part, column and value of each column that holds one of these parts, in the order of the text.
        notes: receives a note of values that were no texts.

    Raises:
        Unusable: a value is neither a text nor a list of texts.
    """
    texts = [question]
    for part, column, value in matter:
        if isinstance(value, str):
            texts.append(value)
        elif not is_missing(value):
            listed = _listed(part, column, value, notes)
            if part != "choices" or not _lists_already("\n".join(texts), value):
                texts.append(listed)
    return "\n\n".join([text for text in texts if text.strip()])


def _lists_already(question: str, choices: Any) -> bool:
    """Return whether a question lists its choices itself: each of them ends a line."""
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    lines = [line.strip() for line in question.splitlines()]
    wanted = [str(text).strip() for text in texts] if isinstance(texts, list) else [str(texts)]
    return bool(wanted) and len(lines) > len(wanted) and all(any(line.endswith(t) for line in lines) for t in wanted)


def _listed(part: str, column: str, value: Any, notes: Notes) -> str:
    """Return a part of a question that is no text: choices with letters, documents below each other."""
    where = f"the column {shortened(column)}"
    if isinstance(value, Mapping) and part == "choices":
        labels, texts = value.get("label"), value.get("text")
    else:
        labels, texts = None, value
    if isinstance(texts, list):
        written = [_document(item, where, notes) for item in texts]
        if part == "choices":
            letters = labels if isinstance(labels, list) else [chr(ord("A") + n) for n in range(len(texts))]
            if len(letters) == len(texts) <= 26 and None not in written:
                return "\n".join(f"{letter}. {text}" for letter, text in zip(letters, written, strict=True))
        elif None not in written and part in ("documents", "context"):
            return "\n\n".join(str(text) for text in written)
    elif not isinstance(texts, Mapping):
        text = as_text(texts, where, notes)
        if text is not None:
            return text
    raise Unusable(f"wrong type in column {column}")


def _document(item: Any, where: str, notes: Notes) -> str | None:
    """Return a document or a choice as text: a string, or title and text of a mapping."""
    if not isinstance(item, Mapping):
        return as_text(item, where, notes)
    text = next(
        (item[key] for key in ("text", "content", "contents", "passage") if isinstance(item.get(key), str)), None
    )
    title = item.get("title")
    return f"{title}\n{text}" if isinstance(title, str) and text is not None else text
