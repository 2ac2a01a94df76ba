"""How one stage is told what to do: a frozen pydantic model, a YAML file, flags and `key.sub=value` on top.

A config is also the identity of what it makes, so its fields say how they count: a `Ref` names an artifact and counts
by that artifact's fingerprint, an `External` names something outside the store and counts by its content, `NOT_HASHED`
changes how a stage runs but not what it makes and does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from .errors import ConfigError, did_you_mean
from .runtime import bundled
from .runtime.redaction import redact, redacted
from .runtime.strict_yaml import LARGEST, NotYaml, parse


class FieldRole:
    """What a field is to the fingerprint; see the module's first lines."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
"""What things in the store are called. It is the name of a file, so it is no path."""
REF, EXTERNAL, NOT_HASHED = FieldRole("ref"), FieldRole("external"), FieldRole("inert")
Ref = Annotated[str, REF]
"""The name of an artifact in the store."""

Given = TypeVar("Given", bound="Options")


def metadata_of(annotation: Any) -> tuple[Any, ...]:
    """What `Annotated` says beside the type."""
    return getattr(annotation, "__metadata__", ())


class Options(BaseModel):
    """What a command is told. Frozen; an unknown key is an error that suggests the nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def fields_with(cls, mark: FieldRole) -> list[str]:
        """The fields that carry `mark`, in order; `Ref | None` carries it too."""
        return [
            name
            for name, field in cls.model_fields.items()
            if mark in field.metadata or any(mark in metadata_of(part) for part in get_args(field.annotation))
        ]

    def refs(self) -> dict[str, str]:
        """Field -> artifact name, for every `Ref` that is set; a list of them is `field.0`, `field.1`, ..."""
        found: dict[str, str] = {}
        for field in self.fields_with(REF):
            value = getattr(self, field)
            several = isinstance(value, tuple)
            found |= {f"{field}.{n}": name for n, name in enumerate(value)} if several else {field: value}
        return {field: name for field, name in found.items() if name is not None}


class Config(Options):
    """What a stage is told: the options of a command that makes something, which has a name."""

    name: str = Field(pattern=NAME.pattern, max_length=120, description="What the store calls the result.")

    def stored(self) -> dict[str, Any]:
        """The config as it is written down: without the passwords and tokens of URLs."""
        values: dict[str, Any] = redact(self.model_dump(mode="json"))
        return values

    def identity(self) -> dict[str, Any]:
        """The part of the config that decides what is made: neither the name, nor inputs, nor inert fields."""
        left_out = {"name", *self.fields_with(REF), *self.fields_with(EXTERNAL), *self.fields_with(NOT_HASHED)}
        return self.model_dump(mode="json", exclude=left_out)


def flag_of(name: str, field: FieldInfo) -> str:
    """A field's flag without dashes: its name, or what `json_schema_extra={"flag": ...}` says."""
    extra = field.json_schema_extra
    renamed = extra.get("flag") if isinstance(extra, dict) else None
    return str(renamed or name).replace("_", "-")


def load(
    cls: type[Given], *, file: Path | None = None, flags: Mapping[str, Any] | None = None, sets: Iterable[str] = ()
) -> Given:
    """Build a config: the YAML file first, then flags, then `key.sub=value` pairs; mappings key by key."""
    values: dict[str, Any] = read_yaml(file) if file else {}
    for key, value in (flags or {}).items():
        under = values.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            values[key] = {**under, **value}
        elif value is not None:
            values[key] = value
    for pair in sets:
        assign(values, pair)
    return build(cls, values, where=f" in {file}" if file else "")


def build(cls: type[Given], values: Mapping[str, Any], where: str = "") -> Given:
    """`cls(**values)`, with pydantic's errors said in one sentence."""
    if strange := [key for key in values if not isinstance(key, str)]:
        raise ConfigError(f"The key {strange[0]!r}{where} is no name: put quotes around it.")
    try:
        built = cls(**values)
        built.model_dump_json()
        return built
    except ValidationError as error:
        raise ConfigError(_sentence(cls, error, where)) from None
    except (UnicodeEncodeError, PydanticSerializationError):
        raise ConfigError(
            f"An option{where} is not valid Unicode, and cannot be written down. Give a path that is "
            "not UTF-8 as a file:// URL, its bytes as %-escapes."
        ) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, of a size that somebody has written (strict_yaml.py)."""
    try:
        with bundled.where(file).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {file}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The config file {file} cannot be read: {error}.") from None
    try:
        values = parse(content)
    except NotYaml as error:
        raise ConfigError(f"{file} is not YAML that curate reads: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold keys and values, not a {type(values).__name__}.")
    return values


def assign(values: dict[str, Any], pair: str) -> None:
    """Set what `key.sub=value` says in nested mappings."""
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set wants key=value or key.sub=value, not '{pair}'.")
    *path, last = key.replace("-", "_").split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, dict) else {}
        values = values[part]
    values[last] = scalar(text)


def scalar(text: str) -> Any:
    """YAML's reading of a value, and 1e-3 as the number that it looks like (YAML 1.1 takes it for text)."""
    try:
        value = parse(text)
    except NotYaml:
        raise ConfigError(f"'{text}' is no YAML value: put quotes around it.") from None
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _sentence(cls: type[Options], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Unknown key '{key}'{where}.{did_you_mean(key, cls.model_fields)}"
    if first["type"] == "missing":
        flag = flag_of(key, cls.model_fields[key]) if key in cls.model_fields else f"set {key}=..."
        return f"'{key}' is missing{where}: give --{flag} or set it in the config file."
    message = first["msg"].removeprefix("Value error, ")
    got = f" (got {_short(first['input'])})" if key else ""
    return f"{key + ': ' if key else ''}{message}{got}{where}."


def _short(value: Any) -> str:
    text = redacted(repr(value))
    return text if len(text) <= 200 else text[:200] + "…"
