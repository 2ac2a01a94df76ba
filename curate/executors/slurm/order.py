"""Decide which entries of a pipeline a job must wait for, so that jobs side by side do what a pipeline does in order.

An entry waits for the entries that make what it reads. Where more than that could change its result, it waits, too:
SQL may read all artifacts, `compare` and `advise` make artifacts of their own, and a pass of `embed` or of gradients
takes from an earlier one with the same model what that has measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

QUERY = "query"
ALONE = (QUERY, "compare", "advise")
"""Stages that read or make artifacts which their options do not name: they wait for all, and all wait for them."""

SHARED = {"embed": ("model", "encoder"), "select": ("warmup",)}
"""Stage -> the options that name its model: with the same one, a later entry takes what an earlier has measured."""

SQL = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(select|with|from|values|table|pivot|unpivot)\b|sql:", re.IGNORECASE | re.DOTALL
)
"""The beginning of a text that is SQL, after comments and brackets."""


@dataclass(frozen=True)
class Step:
    """An entry of a pipeline, as far as its order matters.

    Attributes:
        stage: name of the stage, or `query`.
        label: name of the artifact, or of the query.
        options: options of the entry, as its config has them.
        refs: names of artifacts that the entry reads, of which some may be made by the pipeline.
        makes: name of the artifact and paths of the folders that the entry writes.
    """

    stage: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    refs: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()

    @property
    def is_alone(self) -> bool:
        """True if the entry may read or make artifacts that its options do not name."""
        named = any(value is not None for name, value in self.options.items() if name == "sql" or name.endswith("_sql"))
        return self.stage in ALONE or named or any(SQL.match(text) for text in self.texts())

    def texts(self) -> Iterator[str]:
        """Yield all texts in the options, `label=PATH` also without its label."""
        for text in _texts(self.options):
            yield text
            if "=" in text:
                yield text.partition("=")[2]

    def mentions(self, names: frozenset[str]) -> bool:
        """Return whether an option is one of these names, or a path below one of them."""
        return any(text == name or text.startswith(f"{name}/") for text in self.texts() for name in names)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


def dependencies(steps: Sequence[Step], known: frozenset[str] = frozenset()) -> list[list[int]]:
    """Return for each entry the numbers of the entries that it waits for, without those that these wait for.

    Args:
        steps: the entries, in the order of the pipeline.
        known: names of artifacts that the store has. A name that neither the store nor an earlier entry has may be
            made by any earlier entry.
    """
    found: list[list[int]] = []
    before: list[set[int]] = []
    for number, step in enumerate(steps):
        earlier = [other for other in range(number) if _waits(step, steps[other])]
        made = frozenset().union(*(other.makes for other in steps[:number]))
        if step.refs - made - known:
            earlier = list(range(number))
        indirect = set().union(*(before[other] for other in earlier)) if earlier else set()
        before.append(indirect | {*earlier})
        found.append([other for other in earlier if other not in indirect])
    return found


def _waits(step: Step, earlier: Step) -> bool:
    """Return whether an entry must wait for an earlier one."""
    if step.is_alone or earlier.is_alone:
        return True
    if step.mentions(earlier.makes) or earlier.mentions(step.makes) or step.makes & earlier.makes:
        return True
    if step.stage != earlier.stage:
        return False
    shared = [name for name in SHARED.get(step.stage, ()) if step.options.get(name) is not None]
    if any(step.options[name] == earlier.options.get(name) for name in shared):
        return True
    return _unnamed(step) == _unnamed(earlier)  # the same artifact under two names


def _unnamed(step: Step) -> dict[str, Any]:
    return {name: value for name, value in step.options.items() if name != "name"}
