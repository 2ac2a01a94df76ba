"""Task families of the demo: each draws problems with one right answer and several phrasings of the question.

Families differ in difficulty (copying a number, carrying a digit, recalling a fact, reading a table), in the length of
the answer and in their share of a pool. The shares are heavy-tailed, as in pools that people collect.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .world import ATTRIBUTES, WORLD

_WORDS = """
apple anchor arrow basket bridge button candle carpet castle copper cotton dragon engine falcon feather finger
flower forest garden ginger hammer harbor island jacket kettle ladder lantern lemon letter marble market meadow
mirror morning needle number orange oyster palace parrot pencil pepper planet pocket potato puzzle rabbit ribbon
river saddle sailor school shadow silver singer spider spring square stable summer table temple thunder ticket
timber tunnel turtle valley velvet village violin walnut window winter wizard yellow zebra
"""
WORDS = tuple(_WORDS.split())
PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kai", "Lena")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Problem:
    """One problem: all phrasings of its question, as (instruction, input) pairs, and its answer."""

    phrasings: tuple[tuple[str, str], ...]
    answer: str


def _problem(templates: Sequence[str], answer: object, **slots: object) -> Problem:
    """Fill the slots of every template; the first line break of a template divides the instruction from the input."""
    texts = [template.format(**slots).partition("\n") for template in templates]
    return Problem(tuple((instruction, given) for instruction, _, given in texts), str(answer))


def arithmetic(rng: Random) -> Problem:
    """Sums, differences and products of one to three digits."""
    name = rng.choice(("sum", "sum", "difference", "product"))
    top = rng.choice((10, 30, 100, 100, 1000))
    a, b = rng.randrange(2, top), rng.randrange(2, top if name != "product" else min(top, 13))
    if name == "difference":
        a, b = max(a, b), min(a, b)
    sign, verb, answer = {
        "sum": ("+", "Add {a} and {b}.", a + b),
        "difference": ("-", "Subtract {b} from {a}.", a - b),
        "product": ("*", "Multiply {a} by {b}.", a * b),
    }[name]
    templates = ["What is {a} {sign} {b}?", "Compute the {name}.\n{a} {sign} {b}", verb, "{a} {sign} {b} ="]
    return _problem(templates, answer, a=a, b=b, sign=sign, name=name)


def comparison(rng: Random) -> Problem:
    """The larger or smaller of two numbers."""
    a, b = rng.sample(range(1, rng.choice((100, 1000))), 2)
    which, answer = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    templates = [
        "Which number is {which}, {a} or {b}?",
        "Give the {which} of the two numbers.\n{a}, {b}",
        "Is {a} or {b} the {which} number?",
    ]
    return _problem(templates, answer, which=which, a=a, b=b)


def facts(rng: Random) -> Problem:
    """Facts about the invented world: one fact, or two towns compared."""
    first, second = rng.sample(list(WORLD), 2)
    kind = rng.choice(("one", "one", "older", "same"))
    if kind == "one":
        attribute = rng.choice(list(ATTRIBUTES))
        return _problem(ATTRIBUTES[attribute].questions, WORLD[first][attribute], town=first)
    if kind == "older":
        answer = min(first, second, key=lambda town: int(WORLD[town]["founded"]))
        templates = ["Which town is older, {a} or {b}?", "Name the older of two towns.\n{a}, {b}"]
    else:
        answer = "yes" if WORLD[first]["river"] == WORLD[second]["river"] else "no"
        templates = ["Do {a} and {b} lie on the same river?", "Are {a} and {b} on one river? Answer yes or no."]
    return _problem(templates, answer, a=first, b=second)


def strings(rng: Random) -> Problem:
    """Edits of one or two words."""
    text = " ".join(rng.sample(WORDS, rng.choice((1, 2))))
    task, answer = rng.choice(
        (
            ("reversed", text[::-1]),
            ("in capital letters", text.upper()),
            ("without its vowels", "".join(letter for letter in text if letter not in "aeiou")),
            ("with its letters spelled out", "-".join(text.replace(" ", ""))),
            ("with every letter e made a star", text.replace("e", "*")),
        )
    )
    templates = ["Write '{text}' {task}.", "Write this {task}.\n{text}", "What is '{text}' {task}?"]
    return _problem(templates, answer, text=text, task=task)


def counting(rng: Random) -> Problem:
    """Number of times that a letter is in a text, or number of even or odd numbers in a list."""
    if rng.randrange(2):
        text = " ".join(rng.sample(WORDS, rng.choice((1, 2, 3))))
        letter = rng.choice("aeiolnrt")
        templates = [
            "How many times does the letter {letter} occur in '{text}'?",
            "Count the letter {letter}.\n{text}",
            "Count how often {letter} occurs in '{text}'.",
        ]
        return _problem(templates, text.count(letter), text=text, letter=letter)
    numbers = rng.sample(range(1, 60), rng.randrange(4, 8))
    parity, rest = rng.choice((("even", 0), ("odd", 1)))
    templates = ["How many {parity} numbers are there?\n{given}", "Count the {parity} numbers: {given}"]
    return _problem(templates, sum(n % 2 == rest for n in numbers), parity=parity, given=_listed(numbers))


def sorting(rng: Random) -> Problem:
    """Numbers sorted by size, or words sorted alphabetically."""
    length = rng.randrange(3, 7)
    if rng.randrange(3):
        numbers = rng.sample(range(1, 100), length)
        order, answer = rng.choice((("ascending", sorted(numbers)), ("descending", sorted(numbers, reverse=True))))
        templates = [
            "Sort the numbers in {order} order.\n{given}",
            "Put these numbers in {order} order: {given}",
            "List in {order} order.\n{given}",
        ]
        return _problem(templates, _listed(answer), order=order, given=_listed(numbers))
    words = rng.sample(WORDS, length)
    templates = ["Sort the words alphabetically.\n{given}", "Put these words in alphabetical order: {given}"]
    return _problem(templates, _listed(sorted(words)), given=_listed(words))


def units(rng: Random) -> Problem:
    """Conversions of whole numbers to a smaller unit."""
    large, small, factor = rng.choice(
        (
            ("kilometres", "metres", 1000),
            ("kilograms", "grams", 1000),
            ("hours", "minutes", 60),
            ("weeks", "days", 7),
            ("minutes", "seconds", 60),
            ("dozen", "pieces", 12),
            ("metres", "centimetres", 100),
            ("days", "hours", 24),
        )
    )
    n = rng.randrange(2, rng.choice((12, 60, 400)))
    templates = [
        "How many {small} are {n} {large}?",
        "Convert to {small}.\n{n} {large}",
        "Convert {n} {large} to {small}.",
    ]
    return _problem(templates, f"{n * factor} {small}", n=n, large=large, small=small)


def dates(rng: Random) -> Problem:
    """Days after a date or a weekday, and days between two dates."""
    day = datetime.date(2001, 1, 1) + datetime.timedelta(days=rng.randrange(9000))
    n = rng.randrange(2, 41)
    kind = rng.choice(("after", "between", "weekday"))
    if kind == "after":
        templates = ["Which date is {n} days after {day}?", "Add {n} days to the date.\n{day}"]
        return _problem(templates, day + datetime.timedelta(days=n), n=n, day=day)
    if kind == "between":
        templates = ["How many days are there from {day} to {end}?", "Count the days between the dates.\n{day}, {end}"]
        return _problem(templates, n, day=day, end=day + datetime.timedelta(days=n))
    templates = ["Which weekday was {day}?", "Give the day of the week.\n{day}", "On which weekday did {day} fall?"]
    return _problem(templates, WEEKDAYS[day.weekday()], day=day)


def filtering(rng: Random) -> Problem:
    """The items of a list that meet a condition."""
    if rng.randrange(2):
        numbers = rng.sample(range(1, 100), rng.randrange(4, 9))
        limit = rng.randrange(20, 80, 5)
        rule, answer = f"numbers greater than {limit}", _listed(n for n in numbers if n > limit)
        given = _listed(numbers)
    else:
        words = rng.sample(WORDS, rng.randrange(4, 8))
        letter = rng.choice(words)[0]
        rule, answer = f"words that start with {letter}", _listed(word for word in words if word.startswith(letter))
        given = _listed(words)
    templates = ["Keep only the {rule}.\n{given}", "List the {rule}: {given}", "Which are the {rule}?\n{given}"]
    return _problem(templates, answer or "none", rule=rule, given=given)


def lookup(rng: Random) -> Problem:
    """One cell of a small table."""
    people = rng.sample(PEOPLE, rng.randrange(3, 6))
    rows = [(person, str(rng.randrange(18, 90)), rng.choice(WORDS)) for person in people]
    person, age, owned = rng.choice(rows)
    column, answer = rng.choice((("age", age), ("thing", owned)))
    table = "name | age | thing\n" + "\n".join(" | ".join(row) for row in rows)
    templates = [
        "Look up the {column} of {person} in the table.\n{table}",
        "What is the {column} of {person}?\n{table}",
        "Read the table and give the {column} of {person}.\n{table}",
    ]
    return _problem(templates, answer, column=column, person=person, table=table)


def sequences(rng: Random) -> Problem:
    """The next number of an arithmetic or a doubling sequence."""
    start, step = rng.randrange(1, 60), rng.randrange(2, 20)
    if rng.randrange(3):
        numbers = [start + step * index for index in range(5)]
    else:
        numbers = [start * 2**index for index in range(5)]
    templates = ["Which number comes next?\n{given}", "Continue the sequence: {given}", "What follows {given}?"]
    return _problem(templates, numbers[-1], given=_listed(numbers[:-1]))


def description(rng: Random) -> Problem:
    """Several facts about one town: the longest answers."""
    town = rng.choice(list(WORLD))
    attributes = rng.sample(list(ATTRIBUTES), 3)
    given = _listed(ATTRIBUTES[attribute].label for attribute in attributes)
    sentences = [
        ATTRIBUTES[attribute].statements[0].format(town=town, value=WORLD[town][attribute]) for attribute in attributes
    ]
    templates = ["Describe {town}: {given}.", "Write three sentences about {town}.\n{given}"]
    return _problem(templates, " ".join(sentences), town=town, given=given)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


Family = Callable[[Random], Problem]

FAMILIES: Mapping[str, tuple[Family, float]] = {
    "arithmetic": (arithmetic, 0.30),
    "comparison": (comparison, 0.17),
    "facts": (facts, 0.13),
    "strings": (strings, 0.10),
    "counting": (counting, 0.08),
    "sorting": (sorting, 0.06),
    "units": (units, 0.05),
    "dates": (dates, 0.04),
    "filtering": (filtering, 0.03),
    "lookup": (lookup, 0.02),
    "sequences": (sequences, 0.01),
    "description": (description, 0.01),
}
"""Family -> function that draws a problem, and share of the family in a pool."""


def draw_family(rng: Random, *, even: bool = False) -> str:
    """Draw a family: by its share, or with `even` all families with the same probability."""
    return rng.choices(list(FAMILIES), [1.0 if even else share for _, share in FAMILIES.values()])[0]
