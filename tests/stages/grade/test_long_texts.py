"""Grading takes time linear in the length of a text, also of texts made to be slow; only processor time is compared."""

from __future__ import annotations

import random
import re
import time

import pytest

from curate.samples import Sample
from curate.stages.grade.config import GROUPS
from curate.stages.grade.grading import Grader, snippet
from curate.stages.grade.signals.endings import AUTHOR, FENCE, SENTENCE, TAG, _is_code
from curate.stages.grade.signals.rules import PLACEHOLDERS, found
from curate.stages.grade.stage import NEEDS
from curate.stages.grade.texts import row_of

SHORT, LONG = 20_000, 80_000
FLOOR, MOST = 0.03, 10.0
"""Seconds below which a time says nothing, and most ratio of times at four times the length: quadratic is 16."""
REPEATED = {
    "one letter": "a",
    "words": "y ",
    "digits": "1234567890",
    "numbers": "123 ",
    "capitals": "AB12",
    "minified code": "function f(a,b){return a.b(c)+d[e]};x=1;",
    "ideographs": "中",
    "spaces": " ",
    "line breaks": "\n",
    "signs": "(“.,\"'",
    "open calls": "a(",
    "underscores": "_",
    "addresses": "http://www.",
    "handles": "@a.b-",
    "tags": "<a b\n",
    "inputs": "<input>",
    "comments": "//\n\n# ",
    "keys": "-sk-a",
    "tokens": "-eyJaaaaaaaa",
    "blank items": "[your <your ",
    "phones": "+1 (1) ",
}


def hostile(kind: str, length: int) -> str:
    rng = random.Random(0)
    if kind == "base64":
        return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=length))
    if kind == "DNA":
        return "".join(rng.choices("ACGT", k=length))
    unit = REPEATED[kind]
    return (unit * (length // len(unit) + 1))[:length] + {"inputs": "</input>", "addresses": " y z"}.get(kind, "x")


def seconds(grader: Grader, text: str) -> float:
    """Return the processor time to grade a text as prompt and as answer, and to show it."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    row = row_of(Sample(messages), 0)
    start = time.process_time()
    grader.learn(row)
    _, flags = grader.grade(row)
    for flag in flags:
        snippet(row, flag)
    return time.process_time() - start


@pytest.mark.parametrize("kind", [*REPEATED, "base64", "DNA"])
def test_the_time_of_each_group_grows_with_the_length(kind: str) -> None:
    short, long = hostile(kind, SHORT), hostile(kind, LONG)
    for group in GROUPS:
        if group not in NEEDS or NEEDS[group]():
            grader = Grader((group,))
            seconds(grader, "The model of a group is loaded once.")
            assert seconds(grader, long) <= MOST * max(FLOOR, seconds(grader, short)), group


SLOW_CODE = re.compile(r"\w+\(.*\)\s*$", re.MULTILINE)
SLOW_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
SLOW_TAG = re.compile(r"(?:#[^\s#]+|https?://\S+|www\.\S+|@\w+)[)\]]?\s*$|[\"”]\s*[-–—~]\s*[A-Z].{0,60}$")
SLOW_SENTENCE = re.compile(r"[^\W\d_]{2,}[)\"”’']*[.!?。！？]['\"”’)]*(?:\s+|(?<=[。！？]))(?=[\"“‘'(]?[^\W_])")
SLOW_OUTPUT = re.compile(r"<(?:no ?)?(?:in|out)put>(?![\s\S]*</(?:in|out)put>)", re.IGNORECASE)


def test_the_linear_patterns_find_what_their_plain_forms_find() -> None:
    rng = random.Random(1)
    parts = ["a", "ab", "1", " ", "\n", "\t", "(", ")", "]", "#", "@", "https://", "www.", "```", "~~~", '"', "-", "A",
             ".", "。", "'", "x(y)"]  # fmt: skip
    met = dict.fromkeys(("code", "fence", "tag", "sentence"), 0)
    for _ in range(4000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 12)))
        code, fences = bool(SLOW_CODE.search(text)), len(SLOW_FENCE.findall(text))
        assert bool(_is_code(text)) == code and len(FENCE.findall(text)) == fences, text
        sentence = bool(SLOW_SENTENCE.search(text))
        assert bool(SENTENCE.search(text)) == sentence, text
        tag = False
        if line := " ".join(text.split("\n")).rstrip():
            tag = bool(SLOW_TAG.search(line))
            assert bool(TAG.search(line.split()[-1]) or AUTHOR.search(line)) == tag, text
        for name, is_met in zip(met, (code, fences > 0, tag, sentence), strict=True):
            met[name] += is_met
    assert min(met.values()) > 50, met


def test_an_input_is_left_open_unless_a_closing_tag_is_behind_it() -> None:
    rng = random.Random(2)
    for _ in range(1000):
        text = "".join(rng.choices(["<input>", "<no output>", "</INPUT>", "</output>", "a"], k=rng.randint(1, 6)))
        slow = SLOW_OUTPUT.search(text)
        assert found(text, PLACEHOLDERS) == (slow and slow.span()), text
