"""A small invented world: its facts are in no other data, so a model knows one only if it was trained on it.

The world is the same for every seed. Pre-training states its facts, and the pool asks about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

TOWNS = 60
ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v")
VOWELS = ("a", "e", "i", "o", "u", "ei", "ou")
TOWN_ENDINGS = ("dale", "mund", "ney", "wick", "holt", "sand", "mar", "by")
PERSON_ENDINGS = ("la", "rin", "ko", "na", "vic", "sel", "to", "mi")


@dataclass(frozen=True)
class Attribute:
    """Attribute of every town: sentences that state it, questions that ask for it, and its name in a list."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    label: str


ATTRIBUTES: Mapping[str, Attribute] = {
    "river": Attribute(
        ("{town} lies on the river {value}.", "The river {value} flows through {town}."),
        ("Which river does {town} lie on?", "Name the river that flows through {town}.", "{town} lies on which river?"),
        "river",
    ),
    "export": Attribute(
        ("{town} is known for its {value}.", "The traders of {town} sell {value}."),
        ("What is {town} known for?", "Name the good that {town} sells.", "What do the traders of {town} sell?"),
        "trade",
    ),
    "mayor": Attribute(
        ("The mayor of {town} is {value}.", "{value} is the mayor of {town}."),
        ("Who is the mayor of {town}?", "Name the mayor of {town}.", "Which person governs {town}?"),
        "mayor",
    ),
    "colour": Attribute(
        ("The flag of {town} is {value}.", "{town} has a {value} flag."),
        (
            "What colour is the flag of {town}?",
            "Name the colour of the flag of {town}.",
            "{town} has a flag of what colour?",
        ),
        "flag",
    ),
    "festival": Attribute(
        ("{town} holds its festival in {value}.", "In {value} there is a festival in {town}."),
        (
            "In which month does {town} hold its festival?",
            "When is the festival of {town}?",
            "Name the festival month of {town}.",
        ),
        "festival",
    ),
    "emblem": Attribute(
        ("The emblem of {town} is the {value}.", "The coins of {town} show a {value}."),
        ("What is the emblem of {town}?", "Which animal do the coins of {town} show?", "Name the emblem of {town}."),
        "emblem",
    ),
    "founded": Attribute(
        ("{town} was founded in {value}.", "People have lived in {town} since {value}."),
        (
            "In which year was {town} founded?",
            "When was {town} founded?",
            "Since which year have people lived in {town}?",
        ),
        "year",
    ),
}
"""Name of an attribute -> its sentences, questions and label."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "river": ("Lume", "Orsk", "Tavel", "Binna", "Quarl", "Hesper"),
    "export": ("salt", "wool", "glass", "honey", "copper", "paper", "barley", "rope"),
    "colour": ("red", "green", "blue", "white", "yellow", "black"),
    "festival": ("March", "May", "June", "August", "October", "December"),
    "emblem": ("heron", "fox", "otter", "bear", "owl", "hare", "bull", "swan"),
}
"""Attribute -> its possible values; mayors and years are drawn for each town."""


def _names(rng: Random, endings: tuple[str, ...], count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(endings)).capitalize()] = None
    return list(names)


def _build() -> dict[str, dict[str, str]]:
    rng = Random("curate demo world")
    mayors = _names(rng, PERSON_ENDINGS, TOWNS)
    years = rng.sample(range(1100, 1900), TOWNS)
    towns = {}
    for town, mayor, year in zip(_names(rng, TOWN_ENDINGS, TOWNS), mayors, years, strict=True):
        drawn = {attribute: rng.choice(values) for attribute, values in VALUES.items()}
        towns[town] = {**drawn, "mayor": mayor, "founded": str(year)}
    return towns


WORLD: Mapping[str, Mapping[str, str]] = _build()
"""Town -> attribute -> value."""


def statement(rng: Random) -> str:
    """Draw one fact of the world as a sentence."""
    town, attribute = rng.choice(list(WORLD)), rng.choice(list(ATTRIBUTES))
    return rng.choice(ATTRIBUTES[attribute].statements).format(town=town, value=WORLD[town][attribute])
