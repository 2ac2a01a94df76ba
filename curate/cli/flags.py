"""Make the flags of a command from its config class. The declaration of a field is the only description of its flag.

A flag that the user does not give stays None. So a config file is read first, flags override it, and `--set` overrides
both.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ConfigError
from ..stages.consent import POWERS, Consent, load_allowed
from . import completion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..config import Given, Options

ALIASES = {"model": ("--model-name-or-path",)}
"""Additional spellings of a flag, as other tools spell it."""

StoreFlag = Annotated[
    Path,
    typer.Option("--store", envvar="CURATE_STORE", metavar="DIR", help="Folder of the store, which holds all results."),
]
ConfigFlag = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file with the options above. Flags override it.")
]
FileArgument = Annotated[Path | None, typer.Argument(metavar="FILE", help="Config file: the same as --config FILE.")]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any option, also a nested one: key.sub=value. [repeatable]"),
]


def with_flags(cls: type[Given], act: Callable[[Path, Given], None]) -> Callable[..., None]:
    """Return a function that Typer makes a command of: one flag per field of `cls`. It calls `act(store, config)`."""
    from ..config import REF

    refs = cls.fields_with(REF)
    own = [_parameter(name, field, refs) for name, field in cls.model_fields.items()]
    common = [
        _keyword("file", FileArgument, None),
        _keyword("config_file", ConfigFlag, None),
        _keyword("sets", SetFlag, None),
        _keyword("store", StoreFlag, Path("store")),
    ]

    def command(
        *, file: Path | None, config_file: Path | None, sets: list[str] | None, store: Path, **given: Any
    ) -> None:
        if file is not None and config_file is not None:
            raise ConfigError(f"Give one config file, not two: {file} and --config {config_file}.")
        flags = _read(cls, given)
        act(store, load_allowed(cls, file or config_file, flags, sets or ()))

    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def with_consent(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with a further flag for each power. It calls `function(consent=...)` with what they allow."""
    own = inspect.signature(function, eval_str=True)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "consent"]
    store = parameters.pop() if parameters and parameters[-1].name == "store" else None
    parameters += [_keyword(name, kind, None).replace(kind=parameters[0].kind) for name, kind in _POWER_FLAGS.items()]
    parameters += [store] if store is not None else []

    def command(**given: Any) -> None:
        powers = {name: given.pop(name) for name in _POWER_FLAGS}
        function(**given, consent=Consent(powers))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    command.__doc__ = function.__doc__
    return command


def _power_flag(name: str) -> Any:
    flag, does = name.replace("_", "-"), POWERS[name].does
    if name in ("trust_remote_code", "allow_files", "overwrite"):
        return Annotated[bool | None, typer.Option(f"--{flag}", help=f"Allow it to {does}, if it asks to.")]
    if name == "private":
        return Annotated[
            bool | None, typer.Option("--private/--no-private", help=f"Allow it to {does}, if it asks to.")
        ]
    text = f"Allow it to {does}: give the value that it asks for. [repeatable]"
    return Annotated[list[str] | None, typer.Option(f"--{flag}", metavar="VALUE", help=text)]


_POWER_FLAGS = {name: _power_flag(name) for name in POWERS}
"""Name of a power -> annotation of its flag, for commands that run what a file describes."""


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _parameter(name: str, field: FieldInfo, refs: Collection[str]) -> inspect.Parameter:
    from ..config import flag_of

    flag, kind = flag_of(name, field), _kind(field)
    spelling = [f"--{flag}/--no-{flag}" if kind == "bool" else f"--{flag}", *ALIASES.get(name, ())]
    typed: Any = {"bool": bool, "many": list[str], "pairs": list[str]}.get(kind) or _plain(field)
    names = completion.artifacts if name in refs else None
    option = typer.Option(*spelling, help=_help(field, kind), show_default=False, metavar=None, autocompletion=names)
    return _keyword(name, Annotated[typed | None, option], None)


def _members(field: FieldInfo) -> list[Any]:
    """Return the types that a field may hold, without None and without the wrapper `Annotated`."""
    annotation = field.annotation
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    plain = [typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part for part in parts]
    return [part for part in plain if part is not type(None)]


def _kind(field: FieldInfo) -> str:
    """Return the kind of a field's flag: bool, many (a list), pairs (a mapping), any (YAML decides the type) or one."""
    members = _members(field)
    origins = [typing.get_origin(member) or member for member in members]
    if members == [bool]:
        return "bool"
    if any((isinstance(origin, type) and issubclass(origin, Mapping)) or _is_model(origin) for origin in origins):
        return "pairs"
    if any(isinstance(o, type) and issubclass(o, Sequence) and not issubclass(o, (str, bytes)) for o in origins):
        return "many"
    return "one" if len(members) == 1 else "any"


def _is_model(origin: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(origin, type) and issubclass(origin, BaseModel)


def _plain(field: FieldInfo) -> Any:
    """Return the type that Typer checks and shows: numbers and choices as they are, all other types as text."""
    members = _members(field)
    if len(members) == 1 and (members[0] in (int, float) or typing.get_origin(members[0]) is Literal):
        return members[0]
    return str


def _help(field: FieldInfo, kind: str) -> str:
    notes = {"many": ["repeatable"], "pairs": ["key=value, repeatable"]}.get(kind, [])
    if field.is_required():
        notes.append("required")
    elif (default := field.get_default(call_default_factory=True, validated_data={})) not in (None, (), [], {}, ""):
        notes.append(f"default: {_default_text(default)}")
    return (field.description or "") + (f" [{'; '.join(notes)}]" if notes else "")


def _default_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ",".join(_default_text(part) for part in value)
    return str(value)


def _read(cls: type[Options], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the given flags for the config. Commas separate the values of a list, but not paths."""
    from ..config import EXTERNAL, flag_of, scalar

    values: dict[str, Any] = {}
    paths = cls.fields_with(EXTERNAL)
    for name, value in given.items():
        field = cls.model_fields[name]
        kind = _kind(field)
        if value is None:
            continue
        if kind == "pairs":
            parts = [part for text in value for part in re.split(r",(?=[\w.-]+=)", text)]
            flag = flag_of(name, field)
            pairs = [_pair(part, flag, is_text=_holds_text(field)) for part in parts]
            keys = [key for key, _ in pairs]
            if again := [key for key in keys if keys.count(key) > 1]:
                raise ConfigError(f"'{again[0]}' comes twice in --{flag}: give it once.")
            values[name] = dict(pairs)
        elif kind == "many":
            values[name] = list(value) if name in paths else [part for text in value for part in text.split(",")]
        else:
            values[name] = scalar(value) if kind == "any" else value
    return values


def _pair(text: str, flag: str, *, is_text: bool) -> tuple[str, Any]:
    from ..config import scalar

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--{flag} needs key=value: an argument of it has no '='.")
    return key, value if is_text else scalar(value)


def _holds_text(field: FieldInfo) -> bool:
    """Return whether the values of a mapping are text. YAML does not parse text: `2024` stays the text "2024"."""
    return any(typing.get_args(member)[1:] == (str,) for member in _members(field))
