"""Find selectors of other packages by their entry points, when a user asks for one by name.

A package lists its selectors in its pyproject.toml:

    [project.entry-points."curate.selectors"]
    shortest = "my_package:Shortest"

curate's own selectors come first. Entry points are looked up, and a package is imported, only for a name that is not
in curate itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from .errors import ConfigError, did_you_mean

T = TypeVar("T")


def find(what: str, name: str, group: str, own: Mapping[str, type[T]], kind: type[T]) -> type[T]:
    """Return the class with this name: one of curate's own, or one of another package.

    Args:
        what: word for the class in messages, such as "selector".
        name: name that the user gave.
        group: entry-point group in which other packages list such classes.
        own: curate's own classes by name.
        kind: base class that the result must be a subclass of.

    Raises:
        ConfigError: no class or several packages have this name, its package cannot be imported, or the entry point
            is not a subclass of `kind`.
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
            f"The packages {' and '.join(sorted(found))} each provide a {what} '{name}': uninstall all but one of them."
        )
    package, point = next(iter(found.items()))
    return _load(f"The {what} '{name}' of the package {package}", package, point, kind)


def _load(subject: str, package: str, point: EntryPoint, kind: type[T]) -> type[T]:
    try:
        loaded = point.load()
    except Exception as error:  # a foreign module may raise anything when it is imported
        raise ConfigError(
            f"{subject} cannot be imported from {point.value}: {type(error).__name__}: {error}. Update {package}, or "
            "uninstall it."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise ConfigError(
            f"{subject} is not a {kind.__module__.rpartition('.')[0]}.{kind.__name__}: {point.value} must be a "
            f"subclass of it. Report this to the authors of {package}."
        )
    return loaded


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
