"""Decide whether a command may use an option that gives power, such as running code that comes with a model.

Stores, drafts, pipelines and config files come from other people, too. So consent is never read from a file: the
command line of this command must give it. `check` is the only place that decides; all commands call it, and it logs
what was asked for, by which file, and which flag allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Given, load, scalar
from ..errors import ConfigError
from ..log import LOGGER
from ..runtime.terminal import cell, command
from ..training.trackers.destinations import sends_away

OWN_TEMPLATES = ("chatml", "plain", "thinking")
"""Chat templates that come with curate; every other one is a file."""


@dataclass(frozen=True)
class Power:
    """An option that gives power, and the values of it that do.

    Attributes:
        does: what the option makes the command do, after "asks to".
        asks: whether a value in a config or a pipeline, which the user named, needs consent.
        asks_in_draft: the same for a draft, whose sender may not be the user; None: as `asks`.
        withheld: whether the command can go on without it: the option is then off. Otherwise it ends with an error.
    """

    does: str
    asks: Callable[[Any], bool] = bool
    asks_in_draft: Callable[[Any], bool] | None = None
    withheld: bool = False


def _never(value: Any) -> bool:
    return False


def _is_remote(value: Any) -> bool:
    return "://" in str(value or "")


def _leads_out(value: Any) -> bool:
    """Return whether a destination is not below the working folder."""
    text = str(value or "")
    return _is_remote(text) or text.startswith("~") or Path(text).is_absolute() or ".." in Path(text).parts


LOCAL_TRACKERS = (None, "none", "tensorboard")
"""Values of `report_to` that write below the store only."""

POWERS: Mapping[str, Power] = {
    "trust_remote_code": Power("run code that comes with the model"),
    "task_folder": Power("run the tasks in this folder, which may contain code"),
    "allow_files": Power("let its SQL read files outside the store"),
    "chat_template": Power(
        "read this file as chat template", _never, lambda value: value not in (None, *OWN_TEMPLATES)
    ),
    "to": Power("write to this destination", _is_remote, _leads_out),
    "overwrite": Power("replace the destination even if it holds other files", withheld=True),
    "push_to_hub": Power("upload the dataset to this Hub repository"),
    "private": Power("make the Hub repository public", lambda value: value is False),
    "report_to": Power("send its log to this tracker", sends_away, lambda value: value not in LOCAL_TRACKERS),
}
"""Name of an option -> what it can do. The fields of these names have the role `POWER` in every config."""


LISTS = ("report_to",)
"""Options whose value on a command line may be several, separated by commas."""

FILES = ("chat_template",)
"""Options whose value is a file, which is recorded by its absolute path."""


def _absolute(value: Any) -> str:
    return os.path.abspath(Path(str(value)).expanduser())


@dataclass(frozen=True)
class PowerRequest:
    """A value with power that a file asks for.

    Attributes:
        path: keys that lead to the value, such as `train.trust_remote_code`.
        key: last of them, a key of `POWERS`.
        value: the value.
        among: all values of the list that holds it; () if it is not in a list.
    """

    path: str
    key: str
    value: Any
    among: tuple[Any, ...] = ()

    def words(self, *, nested: bool = False) -> list[str]:
        """Return the words of the flag that allows it; for a `nested` value `--set path=value`."""
        if nested and self.among:
            return ["--set", f"{self.path}=[{','.join(map(str, self.among))}]"]
        if nested:
            return ["--set", f"{self.path}={str(self.value).lower() if isinstance(self.value, bool) else self.value}"]
        name = self.key.replace("_", "-")
        if isinstance(self.value, bool):
            return [f"--{name}" if self.value else f"--no-{name}"]
        return [f"--{name}", str(self.value)]


def power_requests(values: Mapping[str, Any], *, draft: bool = False, above: str = "") -> Iterator[PowerRequest]:
    """Yield the values with power in options, also those in mappings and lists below them.

    Args:
        values: options by name.
        draft: whether they come from a draft.
        above: keys that lead to these options.
    """
    for key, value in values.items():
        path, power = f"{above}{key}", POWERS.get(str(key))
        if power is not None:
            asks = power.asks_in_draft if draft and power.asks_in_draft is not None else power.asks
            several = isinstance(value, (list, tuple))
            plain = [each for each in (value if several else [value]) if not isinstance(each, (Mapping, list, tuple))]
            yield from (
                PowerRequest(path, str(key), each, tuple(plain) if several else ()) for each in plain if asks(each)
            )
        for number, part in enumerate(value) if isinstance(value, (list, tuple)) else [("", value)]:
            if isinstance(part, Mapping):
                yield from power_requests(part, draft=draft, above=f"{path}.{number}." if number != "" else f"{path}.")


class Consent:
    """The options that the command line gives, and so allows.

    Args:
        given: options that were given on the command line, by name; of a repeatable flag a list of values.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.given: list[tuple[str, Any]] = list(_pairs(given or {}))

    def covers(self, request: PowerRequest) -> bool:
        """Return whether the command line gives exactly this value; a file may be named by another path to it."""
        given = [value for key, value in self.given if key == request.key]
        return request.value in given or (request.key in FILES and str(request.value) in map(_absolute, given))


def _pairs(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, Mapping):
                yield from _pairs(part)
            elif key in LISTS and isinstance(part, str):
                yield from ((key, each) for each in part.split(","))
            elif part is not None:
                yield key, part


def check(
    values: Mapping[str, Any], consent: Consent, who: str, *, draft: bool = False, flat: bool = False
) -> dict[str, bool]:
    """Check that the command line allows everything with power in the options of a file, and log what it allows.

    Args:
        values: options by name, as the file gives them.
        consent: what the command line allows.
        who: the file, as the start of a sentence: `The draft of 'run'`.
        draft: whether the file is a draft of a store.
        flat: whether the command has a flag for each power, so that nested options need no `--set`.

    Returns:
        Options that are not allowed and without which the command can go on, with the value False.

    Raises:
        ConfigError: the file asks for something else that the command line does not allow.
    """
    found = list(power_requests(values, draft=draft))
    allowed_by = {request: command(*request.words(nested=not flat and "." in request.path)) for request in found}
    withheld = {r.path: r for r in found if not consent.covers(r) and r.path == r.key and POWERS[r.key].withheld}
    for request in withheld.values():
        LOGGER.info(f"{who} asks to {POWERS[request.key].does}; without {allowed_by[request]} curate does not.")
    found = [request for request in found if request not in withheld.values()]
    missing = [request for request in found if not consent.covers(request)]
    if missing:
        asked = " and to ".join(
            f"{POWERS[request.key].does} ({request.path}: {cell(request.value)})" for request in missing
        )
        raise ConfigError(
            f"{who} asks to {asked}. curate takes this permission from the command line only, never from a file: if "
            f"you trust it, add {' '.join(dict.fromkeys(allowed_by[request] for request in missing))}."
        )
    for request in found:
        asked = f"{POWERS[request.key].does} ({request.path}: {cell(request.value)})"
        LOGGER.info(f"{who} asks to {asked}; {allowed_by[request]} allows it.")
    return dict.fromkeys(withheld, False)


def load_allowed(cls: type[Given], file: Path | None, given: Mapping[str, Any], sets: Iterable[str] = ()) -> Given:
    """Build a config from a YAML file and the options of a call, which alone allow what gives power.

    Args:
        cls: class of the config.
        file: the file, or None.
        given: options of the command line or of a method by name; None does not count.
        sets: `key.sub=value` pairs of the command line.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed.
    """
    config = load(cls, file=file, flags=given, sets=sets)
    if file is None:
        return config
    allowed = Consent({**given, **_assigned(sets)})
    return config.model_copy(update=check(config.model_dump(), allowed, f"The config file {file}"))


def _assigned(sets: Iterable[str]) -> dict[str, Any]:
    """Return the values of `--set key.sub=value` by their last key, as a consent counts them."""
    return {
        pair.partition("=")[0].rpartition(".")[2].replace("-", "_"): scalar(pair.partition("=")[2]) for pair in sets
    }


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Return the words of the flags that allow a config in another process, for a command that has them itself."""
    return [word for request in power_requests(values) for word in request.words(nested="." in request.path)]
