"""Find selectors of other packages by their entry points, when a user asks for one by name.

A package lists its selectors in its pyproject.toml:

    [project.entry-points."curate.selectors"]
    shortest = "my_package:Shortest"

curate's own selectors come first. Entry points are looked up, and a package is imported, only for a name that is not
in curate itself. The name may come from a store of another person: so only an installed package is imported, and the
package is named before its code runs. An error of a package names the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from .errors import ConfigError, CurateError, PluginError, did_you_mean, of_system
from .log import LOGGER

T = TypeVar("T")

_FOUND: dict[type, str] = {}
"""Class of another package -> what it is, for messages: `selector 'mine' of the package broken 1.0`."""


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
    return _load(f"{what} '{name}' of the package {package}", package, point, kind)


def origin(kind: type) -> str:
    """Return in words what a class is and where it comes from: `selector 'mine' of the package broken 1.0`."""
    if kind in _FOUND:
        return _FOUND[kind]
    inside = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return f"selector {kind.__name__} of {'curate' if inside else f'the module {kind.__module__}'}"


def is_foreign(kind: type) -> bool:
    """Return whether a class is not one of curate's own."""
    return kind.__module__.partition(".")[0] != __name__.partition(".")[0]


@contextmanager
def calls_into(kind: type, method: str) -> Iterator[None]:
    """Turn the errors that a class of another package raises inside the `with` block into a `PluginError`.

    The error names the class and its package. Prints of the class go to stderr, because stdout carries data.
    Interrupts, errors of curate, of the system, and a lack of memory pass. curate's own classes are not affected.

    Args:
        kind: the class whose code runs in the block.
        method: name of the method, for the message.

    Raises:
        PluginError: the code raised an error, or tried to end the process.
    """
    if not is_foreign(kind):
        yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (CurateError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # also SystemExit: it would end the command as if all were well
        if of_system(error) is not None or type(error).__name__ == "OutOfMemoryError":
            raise
        raise PluginError(
            f"The {origin(kind)} failed in {method}(): {described(error)}. Report this to its authors; another "
            "selector does not need it."
        ) from error


def described(error: BaseException) -> str:
    """Return an error as one short line: its class and its text; an exit is described as such."""
    if isinstance(error, SystemExit):
        return f"it tried to end the process with code {error.code!r}"
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _load(subject: str, package: str, point: EntryPoint, kind: type[T]) -> type[T]:
    version = f" {point.dist.version}" if point.dist is not None else ""
    if subject not in _ANNOUNCED:
        LOGGER.info(f"Loading the {subject}{version}, from {point.value}.")
        _ANNOUNCED.add(subject)
    try:
        with redirect_stdout(sys.stderr):
            loaded = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a foreign module may raise anything when it is imported, also SystemExit
        raise ConfigError(
            f"The {subject} cannot be imported from {point.value}: {described(error)}. Update {package}, or "
            "uninstall it."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise ConfigError(
            f"The {subject} is not a {kind.__module__.rpartition('.')[0]}.{kind.__name__}: {point.value} must be a "
            f"subclass of it. Report this to the authors of {package}."
        )
    _FOUND[loaded] = f"{subject}{version}"
    return loaded


_ANNOUNCED: set[str] = set()
"""Classes of other packages that were named on stderr, so that each is named once."""


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
