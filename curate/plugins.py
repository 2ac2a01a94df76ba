"""What other packages bring: selectors that they name in their entry points, found when one is asked for by name.

A package says so in its pyproject.toml:

    [project.entry-points."curate.selectors"]
    shortest = "my_package:Shortest"

Nothing is looked up, and nothing imported, before a name is asked for that is none of ours; ours come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from .errors import ConfigError, did_you_mean

T = TypeVar("T")


def find(what: str, name: str, group: str, own: Mapping[str, type[T]], kind: type[T]) -> type[T]:
    """The class of that name: ours, or another package's; `ConfigError` where there is none, or none that works.

    Args:
        what: what users call such a thing ("selector").
        name: what is asked for.
        group: of entry points.
        own: ours by name.
        kind: what it must be a subclass of.
    """
    if name in own:
        return own[name]
    points = list(entry_points(group=group))
    found = {_package_of(point): point for point in points if point.name == name}
    if not found:
        known = {*own, *(point.name for point in points)}
        raise ConfigError(f"There is no {what} '{name}'.{did_you_mean(name, known)}")
    if len(found) > 1:
        raise ConfigError(
            f"The packages {' and '.join(sorted(found))} both bring a {what} '{name}': uninstall all but one of them."
        )
    package, point = next(iter(found.items()))
    return _load(f"The {what} '{name}' of the package {package}", package, point, kind)


def _load(it: str, package: str, point: EntryPoint, kind: type[T]) -> type[T]:
    try:
        loaded = point.load()
    except Exception as error:  # whatever a foreign module does when it is imported
        raise ConfigError(
            f"{it} cannot be imported from {point.value}: {type(error).__name__}: {error}. Update {package}, or "
            "uninstall it."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise ConfigError(
            f"{it} is no {kind.__module__.rpartition('.')[0]}.{kind.__name__}: {point.value} must be a subclass of it. "
            f"Tell the authors of {package}."
        )
    return loaded


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
