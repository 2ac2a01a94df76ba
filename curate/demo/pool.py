"""Generate a pool whose truth is known: clean problems, duplicates of some of them, and noise, mixed at random.

The rows that a selector should find are planted and labelled, so one SQL join shows whether a run kept the right
samples. Everything is drawn by `random.Random` from string seeds, so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import ConfigError
from .families import FAMILIES, Problem, draw_family

Question = tuple[str, str]
"""Instruction and input of a question."""

DUPLICATES = ("exact_duplicate", "near_duplicate")
NOISE = ("wrong_output", "off_topic", "garbled", "truncated")
TRIES = 2000
SYNONYMS = {
    "What": "Which",
    "Which": "What",
    "Give": "State",
    "Name": "State",
    "Compute": "Calculate",
    "Count": "Tell",
    "Sort": "Order",
    "Write": "Print",
    "List": "Show",
    "Put": "Bring",
    "Keep": "Return",
    "Convert": "Change",
    "Add": "Sum",
    "numbers": "values",
    "words": "terms",
}
TYPO_WORDS = {*SYNONYMS, "How", "many", "there", "the", "from", "order"}
"""Words that may get a typing mistake. No problem is about these words, so the answer stays right."""


@dataclass
class DemoRow:
    """A row of the pool. `origin` is the row that it copies; in the file it is the index of that row."""

    instruction: str
    input: str
    output: str
    family: str
    noise: str = ""
    origin: DemoRow | None = None

    @property
    def question(self) -> Question:
        """Instruction and input."""
        return self.instruction, self.input


def generate(
    *,
    rows: int,
    seed: int,
    noise: float = 0.0,
    duplicates: float = 0.0,
    even: bool = False,
    exclude: Iterable[Question] = (),
) -> list[dict[str, Any]]:
    """Return a pool as rows that JSON can hold: instruction, input, output, family, noise, origin.

    Args:
        rows: number of rows, including duplicates and noise.
        seed: whole number; the same seed gives the same pool.
        noise: share of rows whose question or answer is spoilt.
        duplicates: share of rows that copy a clean row, half of them exactly.
        even: True draws all families equally often, instead of with heavy-tailed shares.
        exclude: questions that the pool must not contain in any phrasing.

    Raises:
        ConfigError: a family has too few different problems, or no clean row is left.
    """
    n_noise, n_duplicates = round(rows * noise), round(rows * duplicates)
    n_clean = rows - n_noise - n_duplicates
    if n_clean < 1:
        raise ConfigError(f"noise {noise} and duplicates {duplicates} leave no clean row of {rows}. Lower them.")
    source = _Source(seed, exclude, even)
    clean = [source.row(*source.problem()) for _ in range(n_clean)]
    spoilt = [source.spoil(NOISE[number % len(NOISE)]) for number in range(n_noise)]
    copies = [source.copy(clean, DUPLICATES[number % 2]) for number in range(n_duplicates)]
    pool = [*clean, *spoilt, *copies]
    source.rng.shuffle(pool)
    indices = {id(row): index for index, row in enumerate(pool)}
    return [
        {
            "instruction": row.instruction,
            "input": row.input,
            "output": row.output,
            "family": row.family,
            "noise": row.noise,
            "origin": indices[id(row.origin)] if row.origin else None,
        }
        for row in pool
    ]


def to_jsonl(pool: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pool)


def questions(jsonl: str) -> list[Question]:
    """Return the questions of a pool that `to_jsonl` wrote."""
    return [(row["instruction"], row["input"]) for row in map(json.loads, jsonl.splitlines())]


class _Source:
    """Source of rows: new problems, spoilt rows, and copies of rows."""

    def __init__(self, seed: int, exclude: Iterable[Question], even: bool) -> None:
        self.even = even
        self.rng = Random(f"curate demo pool {seed}")
        self.used = set(exclude)
        self.problems: dict[Question, Problem] = {}
        self.spoilt: set[tuple[Question, str]] = set()

    def problem(self) -> tuple[str, Problem]:
        """Draw a family, and a problem of it that no row of the pool asks in any phrasing."""
        family = draw_family(self.rng, even=self.even)
        for _ in range(TRIES):
            problem = FAMILIES[family][0](self.rng)
            if self.used.isdisjoint(problem.phrasings):
                self.used.update(problem.phrasings)
                return family, problem
        raise ConfigError(f"The family '{family}' of the demo pool has no problem left to draw. Ask for fewer --rows.")

    def row(self, family: str, problem: Problem) -> DemoRow:
        """Return a clean row."""
        question = self.rng.choice(problem.phrasings)
        self.problems[question] = problem
        return DemoRow(*question, problem.answer, family)

    def spoil(self, kind: str) -> DemoRow:
        """Return a spoilt row of a new problem, on which no model should be trained; no two such rows are equal."""
        for _ in range(TRIES):
            row = self._spoilt(kind)
            if (row.question, row.output) not in self.spoilt:
                self.spoilt.add((row.question, row.output))
                return row
        raise ConfigError("The demo pool has no more distinct noise to draw. Lower --noise.")

    def _spoilt(self, kind: str) -> DemoRow:
        family, problem = self.problem()
        row = self.row(family, problem)
        row.noise = kind
        if kind == "wrong_output":
            row.output = self._other_answer(problem, [family])
        elif kind == "off_topic":
            row.output = self._other_answer(problem, [name for name in FAMILIES if name != family])
        elif kind == "garbled":
            row.instruction, row.output = self._garble(row.instruction), self._garble(row.output)
        else:
            row.instruction = row.instruction[: len(row.instruction) * 2 // 3].rstrip()
            row.input = row.input[: len(row.input) // 2].rstrip()
            row.output = row.output[: (len(row.output) + 1) // 2].rstrip()
        return row

    def copy(self, clean: Sequence[DemoRow], kind: str) -> DemoRow:
        """Return a copy of a clean row; a few rows are copied often, most rows never."""
        for _ in range(TRIES):
            origin = clean[int(len(clean) * self.rng.random() * self.rng.random() * self.rng.random())]
            if kind == "exact_duplicate":
                return DemoRow(*origin.question, origin.output, origin.family, kind, origin)
            question = self._reword(origin)
            if question not in self.problems:
                problem = self.problems[question] = self.problems[origin.question]
                return DemoRow(*question, problem.answer, origin.family, kind, origin)
        raise ConfigError("There are too few clean rows for so many near duplicates. Lower --duplicates.")

    def _other_answer(self, problem: Problem, families: Sequence[str]) -> str:
        while True:
            other = FAMILIES[self.rng.choice(families)][0](self.rng).answer
            if other != problem.answer:
                return other

    def _garble(self, text: str) -> str:
        """Replace two of five characters, and at least one, each by a different character."""
        letters = list(text)
        for index in self.rng.sample(range(len(letters)), max(1, len(letters) * 2 // 5)):
            letters[index] = self.rng.choice([c for c in "abcdefghijklmnopqrstuvwxyz#%&@" if c != letters[index]])
        return "".join(letters)

    def _reword(self, origin: DemoRow) -> Question:
        """Return the same question with another phrasing, punctuation, case, wording, or with a typing mistake."""
        instruction, given = origin.question
        kind = self.rng.randrange(5)
        if kind == 0:
            return self.rng.choice(self.problems[origin.question].phrasings)
        if kind == 1:
            return instruction.rstrip("?.:").lower(), given
        if kind == 2:
            return f"Please {instruction[0].lower()}{instruction[1:]}", given
        if kind == 3:
            return " ".join(SYNONYMS.get(word, word) for word in instruction.split(" ")), given
        words = instruction.split(" ")
        number = self.rng.choice([n for n, word in enumerate(words) if word in TYPO_WORDS] or [0])
        if words[number] in TYPO_WORDS:
            index = self.rng.randrange(len(words[number]) - 1)
            swapped = words[number][index + 1] + words[number][index]
            words[number] = words[number][:index] + swapped + words[number][index + 2 :]
        return " ".join(words), given
