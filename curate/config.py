"""Configs of stages: frozen pydantic models, built from a YAML file, then flags, then `key.sub=value` pairs.

A config also identifies the artifact that it makes, because its fields enter the artifact's fingerprint. The role of a
field (`FieldRole`) decides how. `REF` marks the name of an artifact, which enters as that artifact's fingerprint.
`EXTERNAL` marks something outside the store, which enters as a hash of its content. `NOT_HASHED` marks a field that
changes how a stage runs but not its result, and does not enter. `POWER` marks a field that can run code, read or write
outside the store, or send data away: `stages/consent.py` decides about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from .errors import ConfigError, did_you_mean
from .runtime import bundled
from .runtime.redaction import redact, redacted
from .runtime.strict_yaml import LARGEST, NotYaml, parse
from .runtime.terminal import NAME as NAME


class FieldRole:
    """Role of a config field in the fingerprint; the module's docstring explains the roles."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
SECRET_NAME = re.compile("(?<!pad_)token(?!s|_)|secret|passw|pwd|credential|api_key", re.IGNORECASE)
"""Names of options whose values are not shown in errors."""
REF, EXTERNAL, NOT_HASHED = FieldRole("ref"), FieldRole("external"), FieldRole("inert")
POWER = FieldRole("power")
BY_CONTENT = FieldRole("by content")
"""An `EXTERNAL` field whose path once entered: its key stays, as null, so that artifacts made without it are found."""
Ref = Annotated[str, REF]
"""Name of an artifact in the store."""

Given = TypeVar("Given", bound="Options")


def metadata_of(annotation: Any) -> tuple[Any, ...]:
    """Return the metadata of an `Annotated` type; () for other types."""
    return getattr(annotation, "__metadata__", ())


class Options(BaseModel):
    """Options of a command. They are frozen; an unknown key is an error that suggests the nearest known key."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    BEFORE: ClassVar[Mapping[str, Any]] = {}
    """Option -> the value that says what curate did before it had the option. A config that was recorded without the
    option has this value. The value does not enter the fingerprint, so the fingerprints of older artifacts hold."""

    MAKERS: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Field -> the stages that may have made its artifact, where these are others than of the same field elsewhere."""

    @classmethod
    def fields_with(cls, role: FieldRole) -> list[str]:
        """Return the names of the fields with this role, in order; `Ref | None` has the role of `Ref`."""
        return [
            name
            for name, field in cls.model_fields.items()
            if role in field.metadata or any(role in metadata_of(part) for part in get_args(field.annotation))
        ]

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a recorded config, with those that it was recorded without (`BEFORE`)."""
        return {**cls.BEFORE, **values}

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Return a recorded config to read its inputs from: its keys are checked, its values are not.

        So nothing is imported that checks values: for the options of a selector that is torch.

        Raises:
            ConfigError: an option is unknown or missing, as in a config that another version recorded.
        """
        values = {**cls.BEFORE, **values}
        for key in values:
            if key not in cls.model_fields:
                raise ConfigError(f"Unknown key '{key}'.{did_you_mean(key, cls.model_fields)}")
        for key, field in cls.model_fields.items():
            if field.is_required() and key not in values:
                raise ConfigError(f"'{key}' is missing: give --{flag_of(key, field)} or set it in the config file.")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls.model_construct(None, **given)

    def refs(self) -> dict[str, str]:
        """Return field -> artifact name for every `Ref` that is set; items of a list are `field.0`, `field.1`, ..."""
        found: dict[str, str] = {}
        for field in self.fields_with(REF):
            value = getattr(self, field)
            several = isinstance(value, tuple)
            found |= {f"{field}.{n}": name for n, name in enumerate(value)} if several else {field: value}
        return {field: name for field, name in found.items() if name is not None}


class Config(Options):
    """Config of a stage: the options of a command that makes a named artifact."""

    name: str = Field(pattern=NAME.pattern, max_length=120, description="Name of the result in the store.")

    _without_effect: frozenset[str] = PrivateAttr(frozenset())

    def without_effect(self, names: Iterable[str]) -> Self:
        """Return the config with a mark on options of `BEFORE` that change nothing for its inputs.

        They do not enter the fingerprint, so artifacts from before the options are found.
        """
        marked = self.model_copy()
        marked._without_effect = frozenset(names)
        return marked

    def stored(self) -> dict[str, Any]:
        """Return the config as it is stored: without the passwords and tokens of URLs."""
        values: dict[str, Any] = redact(self.model_dump(mode="json"))
        return values

    def identity(self) -> dict[str, Any]:
        """Return the part of the config that decides the result: no name, no inputs, no `NOT_HASHED` fields."""
        not_included = {"name", *self.fields_with(REF), *self.fields_with(EXTERNAL), *self.fields_with(NOT_HASHED)}
        not_included |= {name for name, value in self.BEFORE.items() if getattr(self, name) == value}
        not_included |= self._without_effect
        return self.model_dump(mode="json", exclude=not_included) | dict.fromkeys(self.fields_with(BY_CONTENT))


class NamedConfig(Config):
    """Options of a stage whose artifact has an obvious name when the user gives none."""

    name: str = Field(
        "",
        pattern=NAME.pattern,
        max_length=120,
        description="Name of the result in the store; by default an obvious one.",
    )

    @model_validator(mode="after")
    def _choose_name(self) -> Self:
        if not self.name:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.obvious_name()).strip("-._")[:120]
            if not NAME.match(name):
                raise ConfigError("'name' is missing: give --name or set it in the config file.")
            object.__setattr__(self, "name", name)
        return self

    def obvious_name(self) -> str:
        """Return a name made of the other options, or an empty text if they suggest none.

        Characters that a name must not have are replaced afterwards.
        """
        raise NotImplementedError("a config with an obvious name makes it")

    def name_beside(self, name: str, suffix: str) -> str:
        """Return `name`, with a suffix if an artifact that the config refers to has that name: it must keep it."""
        return f"{name}-{suffix}" if name in self.refs().values() else name


def flag_of(name: str, field: FieldInfo) -> str:
    """Return a field's flag without dashes: its name, or the flag given as `json_schema_extra={"flag": ...}`."""
    extra = field.json_schema_extra
    renamed = extra.get("flag") if isinstance(extra, dict) else None
    return str(renamed or name).replace("_", "-")


def load(
    cls: type[Given], *, file: Path | None = None, flags: Mapping[str, Any] | None = None, sets: Iterable[str] = ()
) -> Given:
    """Build a config from a YAML file, then flags, then `key.sub=value` pairs; later values replace earlier ones.

    A mapping in a flag replaces single keys of the file's mapping. A flag that is None does not count.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed.
    """
    values: dict[str, Any] = read_yaml(file) if file else {}
    for key, value in (flags or {}).items():
        in_file = values.get(key)
        if isinstance(value, dict) and isinstance(in_file, dict):
            values[key] = {**in_file, **value}
        elif value is not None:
            values[key] = value
    for pair in sets:
        assign(values, pair)
    return build(cls, values, where=f" in {file}" if file else "")


def build(cls: type[Given], values: Mapping[str, Any], where: str = "") -> Given:
    """Return `cls(**values)`, and turn pydantic's errors into a sentence.

    Args:
        cls: class of the config.
        values: field -> value.
        where: origin of the values for messages, such as " in c.yaml".

    Raises:
        ConfigError: a key or value is not allowed, or a value cannot be stored.
    """
    if not_text := [key for key in values if not isinstance(key, str)]:
        raise ConfigError(f"The key {not_text[0]!r}{where} is not text: put quotes around it.")
    try:
        built = cls(**values)
        built.model_dump_json()
        return built
    except ValidationError as error:
        raise ConfigError(_sentence(cls, error, where)) from None
    except (UnicodeEncodeError, PydanticSerializationError):
        raise ConfigError(
            f"An option{where} is not valid Unicode, so it cannot be stored. Give a path that is not UTF-8 as a "
            "file:// URL, with its bytes as %-escapes."
        ) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping; `strict_yaml.py` limits its size.

    Raises:
        ConfigError: the file is missing, cannot be read, or contains something else.
    """
    try:
        with bundled.find(file).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {file}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The config file {file} cannot be read: {error}.") from None
    try:
        values = parse(content)
    except NotYaml as error:
        raise ConfigError(f"{file} is not YAML that curate can read: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must contain keys and values, not a {type(values).__name__}.")
    return values


def assign(values: dict[str, Any], pair: str) -> None:
    """Set the value of a `key.sub=value` pair in nested mappings."""
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise ConfigError("--set needs key=value or key.sub=value: an argument of it has no key or no '='.")
    *path, last = key.replace("-", "_").split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, dict) else {}
        values = values[part]
    try:
        values[last] = scalar(text)
    except ConfigError:  # without the value, which may be a secret
        raise ConfigError(f"The value of --set {key} is not a YAML value: put quotes around it.") from None


def scalar(text: str) -> Any:
    """Parse a value as YAML, but 1e-3 as a number (YAML 1.1 reads it as text)."""
    try:
        value = parse(text)
    except NotYaml:
        raise ConfigError("The value is not a YAML value: put quotes around it.") from None
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
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == NAME.pattern:
        message = "A name has only letters, digits, '.', '_' and '-', and begins with a letter or digit"
    got = f" (got {_short(first['input'])})" if key and not SECRET_NAME.search(key) else ""
    return f"{key + ': ' if key else ''}{message}{got}{where}."


def _short(value: Any) -> str:
    text = redacted(repr(value))
    return text if len(text) <= 200 else text[:200] + "…"
