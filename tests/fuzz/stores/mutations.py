"""The kinds of mutations, and the mutant of a number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from . import of_files, of_records, of_tables

KINDS: Mapping[str, Callable[[Random, Path], str]] = {
    "bits": of_files.bits,
    "json": of_records.json_values,
    "links": of_files.links,
    "names": of_files.names,
    "catalogue": of_tables.catalogue,
    "tables": of_tables.tables,
    "fragments": of_tables.fragments,
    "indexes": of_tables.indexes,
    "files": of_files.files,
    "manifests": of_records.manifests,
    "drafts": of_records.drafts,
    "checkpoints": of_records.checkpoints,
    "model": of_records.model,
    "queries": of_records.queries,
    "modes": of_files.modes,
}
"""Kind -> a function that changes a copy of the world and says what it did."""
MORE = 0.15
"""Share of the mutants that get a second mutation of any kind but `modes`, which would hinder it."""


@dataclass(frozen=True)
class Mutant:
    """A received store, as a seed and a number give it.

    Attributes:
        seed: where the numbers begin.
        number: its number; the kinds take turns.
    """

    seed: int
    number: int

    @property
    def kind(self) -> str:
        """The kind of its first mutation."""
        return list(KINDS)[self.number % len(KINDS)]

    def random(self, use: str) -> Random:
        """Return the random numbers of one use, the same each time."""
        return Random(f"{self.seed}/{self.number}/{use}")

    def make(self, honest: Path, world: Path) -> str:
        """Copy the honest world to a new folder, mutate the copy, and say how."""
        shutil.copytree(honest, world)
        rng = self.random("mutation")
        words = KINDS[self.kind](rng, world)
        if self.kind == "modes" or rng.random() >= MORE:
            return words
        second = rng.choice([kind for kind in KINDS if kind != "modes"])
        try:
            return f"{words}; {KINDS[second](rng, world)}"
        except Exception as error:  # the first mutation has taken away what the second one changes
            return f"{words}; the second, {second}, cannot be made ({type(error).__name__})"
