"""Tell whether an answer ends without an end: in the middle of a word, a sentence, a bracket or a block of code.

Many right answers end without a full stop: a number, a name, a title, a list, code. So only prose is judged by its last
sentence, and only where the text before it shows that its sentences end with a sign.

Answers may have millions of characters, so each pattern takes time linear in the length of any text: no two of its
places scan the same characters, or they scan few. So white space at the begin of a line ends with the line.
"""

from __future__ import annotations

import re

from .measures import words_of
from .vocabulary import Vocabulary

FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)", re.MULTILINE)
END = re.compile(r"[.!?…。！？]['\"”’»)\]}*_`]*\s*$|[:;]\s*[)(D]\s*$")
"""A text that ends with a sign that ends a sentence, or with a face."""
SENTENCE = re.compile(r"[^\W\d_]{2}[)\"”’']*[.!?。！？]['\"”’)]*(?:\s+|(?<=[。！？]))(?=[\"“‘'(]?[^\W_])")
"""The end of a sentence with another one behind it."""
LEFT_OPEN = re.compile(r"(?:[,，、(\[{“‘«]|(?<=\s)[-–—&/+=])\s*$")
"""A sign at the end of a text that something must follow."""
LEADING = frozenset(
    """
    a an the and or but nor because although though while whereas if unless until than that which whose
    whom who of to for from with without within into onto upon by at as is are was were be been being
    has have had can could will would shall should may might must very such not his her its their our
    your my these those this including between among through during about against toward towards via per
    """.split()  # noqa: SIM905
)
"""Words that no English sentence ends with, or almost none."""
CODE = re.compile(
    r"[{};]\s*$|^[^\S\n]*(?:def|class|import|from|return|for|while|if|else|print|SELECT|INSERT|UPDATE|CREATE|var|let|const"
    r"|function|public|#include|<\w[^>]{0,300}>)\b|=>|==|</\w+>",
    re.MULTILINE,
)
CALL = re.compile(r"\w\(")
"""The begin of a call; a line that has one and ends with a closing bracket is code, too."""
ITEM = re.compile(r"^\s*(?:[-*•·–]|\(?\d{1,3}[.):]|\(?[A-Za-z][.)])\s")
TAG = re.compile(r"#[^\s#]+$|https?://\S|www\.\S|@\w+[)\]]?$")
"""A hashtag or an address, in the last word of a text: nothing must follow it."""
AUTHOR = re.compile(r"[\"”]\s*[-–—~]\s*[A-Z].{0,60}$")
"""The author behind a quotation at the end of a text: nothing must follow it, either."""
LEAST_LETTERS = 40
"""Letters of the shortest answer that is judged by the sentences before its end."""
LEAST_LINE = 4
"""Words of the shortest last line that is judged as a sentence."""
PAIRS = {"(": ")", "[": "]", "{": "}", "（": "）", "「": "」", "“": "”"}


def unfinished(answer: str, vocabulary: Vocabulary) -> bool:
    """Return whether an answer ends without an end.

    It does if a block of code, or a bracket in code, is not closed. It also does if its last line is no code, has at
    least three words, and ends with a comma, an opening bracket or quote, a word that something must follow
    (`LEADING`), or what seems a part of a word (`Vocabulary.is_cut`). A longer answer, of at least 40 letters, also
    does if its last line has at least four words, is no item of a list, and ends without a sign where an earlier
    sentence of that paragraph, or most paragraphs, have one; or inside a bracket that the line opens.
    """
    text = answer.rstrip()
    if len(FENCE.findall(text)) % 2:
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or text.endswith(("```", "~~~")):
        return False
    *before, last = lines
    words = words_of(last)
    if END.search(last) or TAG.search(last.split()[-1]) or AUTHOR.search(last):
        return False
    if _is_code(text):
        return any(text.count(opened) > text.count(closed) for opened, closed in (("{", "}"), ("(", ")")))
    if len(words) >= LEAST_LINE - 1 and _left_open(last, words, vocabulary):
        return True
    if len(words) < LEAST_LINE or sum(map(str.isalpha, text)) < LEAST_LETTERS:
        return False
    if ITEM.match(last) or not last.rstrip()[-1].isalnum():
        return False
    return bool(SENTENCE.search(last)) or _is_prose(before) or _in_bracket(last)


def _is_code(text: str) -> bool:
    """Return whether a text has a line that seems code."""
    if CODE.search(text):
        return True
    return any(line.rstrip().endswith(")") and CALL.search(line) for line in text.split("\n"))


def _left_open(last: str, words: list[str], vocabulary: Vocabulary) -> bool:
    """Return whether a line ends with a sign or word that something must follow, or within a word."""
    if LEFT_OPEN.search(last):
        return True
    return last.rstrip().endswith(words[-1]) and (words[-1] in LEADING or vocabulary.is_cut(words[-1]))


def _is_prose(lines: list[str]) -> bool:
    """Return whether most of the lines before the last end with the sign of a sentence."""
    long = [line for line in lines if len(words_of(line)) >= LEAST_LINE]
    return len(long) > 0 and sum(bool(END.search(line)) for line in long) > 0.6 * len(long)


def _in_bracket(last: str) -> bool:
    """Return whether a line opens a bracket or quote that it does not close."""
    return any(last.count(opened) > last.count(closed) for opened, closed in PAIRS.items())
