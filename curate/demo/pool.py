"""A pool whose truth is known: clean problems, duplicates of some of them, and noise, mixed at random.

What a selector should find is planted and labelled, so that a run's ledger can be judged by one SQL join. Everything
is drawn by `random.Random` from string seeds, so a seed means the same bytes on every machine.
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
"""An instruction and its input."""

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
TYPED = {*SYNONYMS, "How", "many", "there", "the", "from", "order"}
"""Words that a typing mistake may hit: none that a problem is about, so that the answer stays right."""


@dataclass
class DemoRow:
    """A row of the pool; `origin` is the row that it copies, and its place in the file when written."""

    instruction: str
    input: str
    output: str
    family: str
    noise: str = ""
    origin: DemoRow | None = None

    @property
    def question(self) -> Question:
        """What is asked."""
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
    """A pool as JSON-able rows: instruction, input, output, family, noise, origin.

    Args:
        rows: how many, duplicates and noise included.
        seed: a whole number; the same one, the same pool.
        noise: share of rows whose question or answer is spoilt.
        duplicates: share of rows that copy a clean row, half of them exactly.
        even: families in equal shares instead of a heavy tail.
        exclude: questions to leave out, however they are phrased.

    Raises:
        ConfigError: a family has fewer problems than are asked for, or no clean row is left.
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
    places = {id(row): place for place, row in enumerate(pool)}
    return [
        {
            "instruction": row.instruction,
            "input": row.input,
            "output": row.output,
            "family": row.family,
            "noise": row.noise,
            "origin": places[id(row.origin)] if row.origin else None,
        }
        for row in pool
    ]


def to_jsonl(pool: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pool)


def questions(jsonl: str) -> list[Question]:
    """The questions of a pool that `to_jsonl` wrote."""
    return [(row["instruction"], row["input"]) for row in map(json.loads, jsonl.splitlines())]


class _Source:
    """Draws problems that were not drawn before, and spoils and copies rows."""

    def __init__(self, seed: int, exclude: Iterable[Question], even: bool) -> None:
        self.even = even
        self.rng = Random(f"curate demo pool {seed}")
        self.asked = set(exclude)
        self.problems: dict[Question, Problem] = {}
        self.spoilt: set[tuple[Question, str]] = set()

    def problem(self) -> tuple[str, Problem]:
        """A family and a problem of it that nothing in the pool asks, in any phrasing."""
        family = draw_family(self.rng, even=self.even)
        for _ in range(TRIES):
            problem = FAMILIES[family][0](self.rng)
            if self.asked.isdisjoint(problem.phrasings):
                self.asked.update(problem.phrasings)
                return family, problem
        raise ConfigError(f"The family '{family}' of the demo pool has no problem left to draw. Ask for fewer --rows.")

    def row(self, family: str, problem: Problem) -> DemoRow:
        """A clean row."""
        question = self.rng.choice(problem.phrasings)
        self.problems[question] = problem
        return DemoRow(*question, problem.answer, family)

    def spoil(self, kind: str) -> DemoRow:
        """A row of a fresh problem that nobody should learn from, unlike every other row."""
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
        """A copy of a clean row; a few rows are copied often, most never."""
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
        """Two characters in five replaced, and at least one, by a different one."""
        letters = list(text)
        for place in self.rng.sample(range(len(letters)), max(1, len(letters) * 2 // 5)):
            letters[place] = self.rng.choice([c for c in "abcdefghijklmnopqrstuvwxyz#%&@" if c != letters[place]])
        return "".join(letters)

    def _reword(self, origin: DemoRow) -> Question:
        """The same question: phrased, punctuated, cased, typed or worded in another way."""
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
        number = self.rng.choice([n for n, word in enumerate(words) if word in TYPED] or [0])
        if words[number] in TYPED:
            place = self.rng.randrange(len(words[number]) - 1)
            swapped = words[number][place + 1] + words[number][place]
            words[number] = words[number][:place] + swapped + words[number][place + 2 :]
        return " ".join(words), given
