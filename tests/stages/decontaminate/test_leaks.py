"""Leaks: planted ones are found and only these, and the pairs are those of comparing all with all."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from curate.samples import Sample
from curate.stages.decontaminate.leaks import Held, Leak, Row, find_leaks
from curate.stages.decontaminate.numbers import common
from curate.stages.decontaminate.words import Text, question_and_answer, words_of

RNG = random.Random(4)
NAMES = ["".join(RNG.choice("bdfgklmnprst") + RNG.choice("aeiou") for _ in range(3)) for _ in range(400)]
TEMPLATE = "Please answer the following question with true or false, question: is {} the same kind of animal as {}?"
SYNONYMS = {"buys": "purchases", "gives": "donates", "each": "every", "children": "kids", "total": "overall"}
SYNONYMS |= {"money": "cash", "begins": "starts", "large": "big"}


def name() -> str:
    return NAMES.pop()


def question(number: int) -> str:
    """Return a question of one of three kinds: with numbers, with options, or in prose."""
    one, two, three = name(), name(), name()
    if number % 3 == 0:
        n, m = RNG.randint(1200, 9000), RNG.randint(3, 12)
        return (
            f"{one} begins with {n:,} {two} and gives {m} of them to each of the children at the {three} fair. How "
            f"many {two} are left for {one} in total if nothing else is lost on the way?"
        )
    if number % 3 == 1:
        options = [name() for _ in range(4)]
        return (
            f"Which {one} lives near a large {two} when the {three} season ends and the money is spent?\n"
            + "\n".join(f"({label}) the {each} of {two}" for label, each in zip("ABCD", options, strict=True))
        )
    return (
        f"Explain why {one} buys a large map of {two} before the trip to {three}, and what it has to do with the old "
        f"harbour of {name()} where children play."
    )


HELD = [question(number) for number in range(24)]


def reworded(text: str) -> str:
    """Return the text in capitals, with other words, without punctuation, and with other forms of numbers."""
    text = re.sub(r"(\d),(\d{3})", r"\1\2", text)
    text = re.sub(r"\b([3-9])\b", lambda match: f"{match[1]}.0", text)
    text = re.sub(r"[a-z]+", lambda match: SYNONYMS.get(match[0], match[0]), text)
    return re.sub(r"[?,]|\.(?!\d)", " ", text).upper()


def reformatted(text: str, form: str) -> str:
    """Return the text with its options in reverse order and with other labels."""
    head, *options = re.split(r"\n\([A-D]\) ", text)
    lines = [form.format(n=n + 1, a="abcd"[n]) + option for n, option in enumerate(reversed(options))]
    return head + "\n" + "\n".join(lines)


def truncated(text: str) -> str:
    words = text.split(" ")
    return " ".join(words[: len(words) * 7 // 10])


RULES: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "spaced": lambda text: "  " + text.replace(" ", "  ").title() + "\n",
    "reworded": reworded,
    "truncated": truncated,
    "embedded": lambda text: f"Here is some text that I found.\n\n{text}\n\nWhat do you make of it, my dear friend?",
    "letters": lambda text: reformatted(text, "{a}. "),
    "numbers": lambda text: reformatted(text, "{n}) "),
    "bullets": lambda text: reformatted(text, "- "),
}


def other_numbers(text: str) -> str:
    return re.sub(r"\d+", lambda match: str(int(match[0]) + 1), text)


def other_content(text: str) -> str:
    """Return the text with new names: the words that only this text has."""
    mine: dict[str, str] = {}
    found = set(re.findall(r"\b(?:[bdfgklmnprst][aeiou]){3}\b", text))
    return (
        re.sub(r"\b(?:[bdfgklmnprst][aeiou]){3}\b", lambda m: mine.setdefault(m[0], m[0][::-1] + "x"), text)
        if found
        else text
    )


CLEAN = [
    *(TEMPLATE.format(name(), name()) for _ in range(60)),
    *(other_numbers(text) for text in HELD[::3]),
    *(other_content(text) for text in HELD),
    *("Think step by step, then say: the correct answer is" for _ in range(30)),
]


def rows_of(texts: Sequence[str | tuple[str, str]]) -> list[Row]:
    pairs = [(text, f"answer {name_of(n)}") if isinstance(text, str) else text for n, text in enumerate(texts)]
    return [Row(f"s{n}", n, asked, answer) for n, (asked, answer) in enumerate(pairs)]


def name_of(number: int) -> str:
    return "".join("bdfgklmnpr"[int(digit)] for digit in str(number))


def held_of(texts: Sequence[str | tuple[str, str]]) -> list[Held]:
    return [Held(row, "held") for row in rows_of(texts)]


def leaks_of(
    pool: Sequence[str | tuple[str, str]], held: Sequence[str | tuple[str, str]], share: float = 0.4
) -> list[Leak]:
    rows = rows_of(pool)
    return find_leaks(lambda: rows, held_of(held), share)


def test_planted_leaks_are_found_and_nothing_else() -> None:
    planted = [
        (rule(text), number)
        for key, rule in RULES.items()
        for number, text in enumerate(HELD)
        if number % 3 == 1 or key not in ("letters", "numbers", "bullets")
    ]
    templates = [TEMPLATE.format(name(), name()) for _ in range(3)]
    found = leaks_of([*CLEAN, *(text for text, _ in planted)], [*HELD, *templates])
    pairs = {(leak.row.position, leak.held) for leak in found}
    assert pairs == {(len(CLEAN) + place, number) for place, (_, number) in enumerate(planted)}
    kinds = Counter(leak.kind for leak in found)
    assert set(kinds) == {"exact", "contained", "reworded", "truncated"}
    assert all(leak.passage and 0 < leak.score <= 1 and leak.evidence >= 3 for leak in found)


def test_the_passage_is_the_longest_text_that_both_have() -> None:
    (leak,) = leaks_of([f"Read this: {HELD[2]} And more.", *CLEAN], HELD[2:3])
    assert leak.kind == "contained" and leak.passage.startswith(" ".join(words_of(HELD[2])[:20]))


SAME = {
    "What is 8 - 3?": ["what is 8 − 3", "WHAT IS  8 - 3 ?", "What is eight - three?"],
    "It costs $1,200.50 or 12%.": ["It costs 1200.5 or 12 percent"],
    "Pick one: A) 3 B) 5 C) 7": ["Pick one:\n1. 7\n2. 3\n3. 5", "Pick one: (a) 5 (b) 7 (c) 3"],
    "Is it well-known, true/false?": ["is it well known true false"],
    "It is twenty-five.": ["It is 25."],
    "热还是冷？（A）热 （B）冷": ["热还是冷?\nA. 冷\nB. 热"],
}
OTHER = [
    "What is 8 + 3?",
    "What is 8 - 5 - 3?",
    "What is 3 - 8?",
    "What is 8 - 3 + 2?",
    "What is 8 - 4?",
    "What is -8 3?",
]
OTHER += ["x² is", "x2 is", "1½ is", "11/2 is"]
BRACKETS = ["not ( not ( True ) ) is", "not ( ( not True ) ) is", "not not ( True ) is", "[ ( <", "[ < ("]


@pytest.mark.parametrize("text", SAME)
def test_the_form_of_numbers_and_options_makes_no_difference(text: str) -> None:
    keys = {Text.of(each).key for each in SAME[text]}
    assert keys == {Text.of(text).key}


def test_other_numbers_signs_and_brackets_are_no_leak() -> None:
    texts = [*SAME, *OTHER]
    assert len({Text.of(each).key for each in [*texts, *BRACKETS]}) == len(texts) + len(BRACKETS)
    long = "the answer to the riddle of the lonely lighthouse keeper near the northern fjord"
    found = leaks_of(
        [f"{long}: {each} Tell me." for each in texts], [f"{long}: {each} Tell me." for each in texts], 0.2
    )
    assert {(leak.row.position, leak.held) for leak in found} == {(n, n) for n in range(len(texts))}


def test_a_stock_phrase_is_no_leak_however_long_it_is() -> None:
    phrase = "Read the passage below with great care and then answer each of the questions in full sentences, please. "
    pool = [phrase + name_of(n) * 2 + " and " + name_of(n + 500) for n in range(80)]
    assert not leaks_of(pool, [phrase + "mimosa and cactus", phrase + "tulip and rose"], 0.3)


def test_an_answer_is_found_by_itself_if_it_is_rare() -> None:
    answer = "Because the old harbour froze over in March, " + " ".join(NAMES[:14]) + ", so the ferry could not leave."
    pool = [
        ("Say something", answer),
        ("Say more", "the correct answer is true"),
        ("Yes?", answer.replace("March", "May")),
    ]
    found = leaks_of(
        [*pool, *CLEAN[:30]], [("Why did the ferry stay?", answer), ("Is it?", "the correct answer is true")]
    )
    assert {(leak.row.position, leak.held, leak.kind) for leak in found} == {(0, 0, "answer"), (2, 0, "answer")}


def test_system_texts_do_not_count_and_earlier_turns_do() -> None:
    turns = [("system", "Be nice."), ("user", "Hi"), ("assistant", "Yes"), ("user", HELD[5]), ("assistant", "Fine")]
    asked, answer = question_and_answer(Sample([{"role": role, "content": text} for role, text in turns]))
    assert (asked, answer) == (f"Hi\nYes\n{HELD[5]}", "Fine")
    assert [leak.kind for leak in leaks_of([asked, *CLEAN], [HELD[5]])] == ["contained"]


def words(rng: random.Random, most: int) -> list[str]:
    return [rng.choice("abcdefghijklmnop") * rng.randint(1, 2) for _ in range(rng.randint(1, most))]


def random_rows(seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return a pool and held-out rows: some of the pool have parts of these, with some words changed."""
    rng = random.Random(seed)
    held = [(" ".join(words(rng, 25)) + rng.choice(["", " 7", " 7 - 2"]), " ".join(words(rng, 25))) for _ in range(25)]
    pool = []
    for _ in range(120):
        asked, answer = (each.split() for each in rng.choice(held))
        for _ in range(rng.randint(0, 4)):
            asked[rng.randrange(len(asked))] = words(rng, 1)[0]
        asked = asked[: rng.randint(1, len(asked))] if rng.random() < 0.3 else asked
        asked = words(rng, 8) + asked if rng.random() < 0.3 else asked
        pool.append((" ".join(asked), " ".join(answer if rng.random() < 0.3 else words(rng, 25))))
    return pool, held


def slow_sequences(text: Text, length: int) -> set[tuple[str, ...]]:
    found = set()
    for part in text.parts:
        size = min(length, len(part))
        found |= {part[n : n + size] for n in range(len(part) - size + 1)}
    return found


def slow_common(one: Sequence[object], two: Sequence[object]) -> int:
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, j in itertools.product(range(len(one)), range(len(two))):
        table[i + 1][j + 1] = table[i][j] + 1 if one[i] == two[j] else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_leaks(pool: list[tuple[str, str]], held: list[tuple[str, str]], share: float) -> dict[tuple[int, int], str]:
    """Compare all with all. Texts without options have their numbers in one part."""

    def sets(row: tuple[str, str], length: int) -> set[tuple[str, ...]]:
        return slow_sequences(Text.of(row[0]), length) | slow_sequences(Text.of(row[1]), length)

    distinct = [*{tuple(map(words_of, row)): row for row in pool}.values()]
    distinct += [*{tuple(map(words_of, row)): row for row in held}.values()]
    weight: dict[int, dict[tuple[str, ...], float]] = {}
    for length in (1, 3):
        df = Counter(key for row in distinct for key in sets(row, length))
        most = math.log1p(len(distinct) / 2)
        weight[length] = {key: (math.log1p(len(distinct) / count) / most) ** 2 for key, count in df.items()}
    found = {}
    for (place, row), (number, other) in itertools.product(enumerate(pool), enumerate(held)):
        asked, text = Text.of(other[0]), Text.of(row[0])

        def part(of: str, length: int, row: tuple[str, str] = row) -> tuple[float, float]:
            mine = slow_sequences(Text.of(of), length)
            both = sum(weight[length][key] for key in mine & sets(row, length))
            return both / sum(weight[length][key] for key in mine), both

        runs = [run for each in Text.of(row[0]).numbers + Text.of(row[1]).numbers for run in each]
        mine, theirs = ([run for each in one.numbers for run in each] for one in (asked, text))
        contained = slow_common(mine, runs) >= 0.9 * len(mine)
        equal = slow_common(mine, theirs) >= 0.9 * max(len(mine), len(theirs))
        (score, evidence), (word_score, word_evidence) = part(other[0], 3), part(other[0], 1)
        enough = (
            score >= share - 1e-9 and evidence >= 3 - 1e-9 and word_score >= 0.8 - 1e-9 and word_evidence >= 1 - 1e-9
        )
        own, shared = slow_sequences(text, 3), slow_sequences(text, 3) & slow_sequences(asked, 3)
        cut = len(shared) >= 0.9 * len(own) - 1e-9 and sum(weight[3][key] for key in shared) >= 3 - 1e-9
        answers = [run for each in Text.of(other[1]).numbers for run in each]
        if asked.key == text.key:
            found[place, number] = "exact"
        elif enough and score >= 0.8 - 1e-9 and contained:
            found[place, number] = "contained"
        elif enough and score < 0.8 - 1e-9 and equal:
            found[place, number] = "reworded"
        elif cut and (
            not theirs or slow_common(theirs, mine) >= 0.9 * len(theirs) or theirs[-1] == mine[0][: len(theirs[-1])]
        ):
            found[place, number] = "truncated"
        elif (
            part(other[1], 3)[0] >= 0.8 - 1e-9
            and part(other[1], 3)[1] >= 8 - 1e-9
            and slow_common(answers, runs) == len(answers)
        ):
            found[place, number] = "answer"
    return found


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 1.0])
def test_the_pairs_are_those_of_comparing_all_with_all(share: float) -> None:
    pool, held = random_rows(2)
    found = {(leak.row.position, leak.held): leak.kind for leak in leaks_of(pool, held, share)}
    expected = slow_leaks(pool, held, share)
    assert len(expected) > 30 and len(set(expected.values())) >= (4 if share < 0.8 else 3)
    assert found == expected


def test_the_common_runs_are_those_of_the_table() -> None:
    rng = random.Random(1)
    for _ in range(100):
        one, two = ([(str(rng.randint(0, 3)),) for _ in range(rng.randint(0, 90))] for _ in range(2))
        assert common(one, two) == slow_common(one, two)


def test_the_order_of_the_rows_changes_nothing() -> None:
    pool, held = random_rows(5)
    order = random.Random(3).sample(range(len(pool)), len(pool))
    first = {(leak.row.position, leak.held): leak for leak in leaks_of(pool, held)}
    again = leaks_of([pool[n] for n in order], held)
    assert {(order[leak.row.position], leak.held) for leak in again} == set(first)
    for leak in again:
        same = first[order[leak.row.position], leak.held]
        assert (leak.kind, leak.score, leak.passage) == (same.kind, pytest.approx(same.score), same.passage)


HOSTILE = ["", " ", "\x00\x1b[31m", "\ud800 x", "a. " * 3000, "- x\n" * 3000, "1 " * 3000, "((((" * 1000, "A. B. C. D."]
HOSTILE += [
    "\u202e" + HELD[0],
    "1" * 5000,
    "٣ + ٤",
    "²³ ½",
    "\n".join(f"{n}. x" for n in range(1, 120)),
    "__ _",
    "🙂 🙃",
]


def test_hostile_texts_are_texts_like_others() -> None:
    found = leaks_of([*HOSTILE, *HOSTILE, *CLEAN[:5]], HOSTILE)
    assert {leak.row.position % len(HOSTILE) for leak in found if leak.row.position < 2 * len(HOSTILE)} >= set(
        range(4, 8)
    )
    same = {(leak.row.position, leak.held) for leak in found if leak.kind == "exact"}
    assert same >= {(n, n) for n, text in enumerate(HOSTILE) if words_of(text)}
    assert not leaks_of([], HELD) and not leaks_of(HOSTILE, [])
