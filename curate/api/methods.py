"""Signatures and help of the methods of `Store`, made from the configs of stages when they are asked for.

A type checker reads the types in `options`, which `python -m tests.api.option_types` generates from the same configs.
So a field of a config is the only description of a keyword, as it is of a flag.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..config import Options
    from ..store import Artifact, Store

Method = TypeVar("Method", bound=Callable[..., Any])

OTHER_CONFIGS = {
    "inspect": "curate.api.commands.inspection:InspectConfig",
    "doctor": "curate.doctor.plan:PlannedRun",
    **dict.fromkeys(("resume", "run"), "curate.api.commands.allowed:AllowedOptions"),
}
"""Method whose keywords are the fields of a config of no stage -> that config."""
ONLY_FLAGS: Mapping[str, Collection[str]] = {"doctor": ("as_json",), "compare": ("format",), "advise": ("format",)}
"""Method -> fields that say how its command prints the result. They are no keywords: a result has several forms."""


def config_of(method: str) -> type[Options]:
    """Return the config whose fields are the keywords of a method."""
    if method not in OTHER_CONFIGS:
        from ..stages import stage_of

        return stage_of(method.replace("_", "-")).config
    module, _, name = OTHER_CONFIGS[method].partition(":")
    found: type[Options] = getattr(import_module(module), name)
    return found


def keywords_of(method: str) -> dict[str, FieldInfo]:
    """Return the fields of a method's config that are its keywords."""
    hidden = ONLY_FLAGS.get(method, ())
    return {name: field for name, field in config_of(method).model_fields.items() if name not in hidden}


class Described:
    """A method of `Store` whose keywords are the fields of a config.

    The config is imported when the method is looked up, so `from curate import Store` stays fast.

    Args:
        function: the method; its `**options` are the fields that it does not name itself.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object | None, owner: type | None = None) -> Callable[..., Any]:
        return self.described if instance is None else types.MethodType(self.described, instance)

    @functools.cached_property
    def described(self) -> Callable[..., Any]:
        """The function with the signature and the help that its config gives."""
        function, name = self.function, self.function.__name__
        fields = keywords_of(name)
        known = [*(parameter.name for parameter in _own(function)[1:]), *fields]

        @functools.wraps(function)
        def method(*args: Any, **options: Any) -> Any:
            require_known(name, options, known)
            if missing := [each for each, field in fields.items() if field.is_required() and each not in options]:
                raise ConfigError(f"{name} needs {missing[0]}=...: {fields[missing[0]].description}")
            return function(*args, **options)

        method.__signature__ = _signature(function, fields, config_of(name))  # type: ignore[attr-defined]
        method.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *_help(function, fields)])
        return method


def described(function: Method) -> Method:
    """Give a method the signature and the help of its config; a type checker sees its own signature."""
    return cast(Method, Described(function))


def checked(function: Method) -> Method:
    """Let an unknown keyword of a method raise `ConfigError` with the nearest name, as unknown options do."""
    known = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def method(self: Any, *args: Any, **given: Any) -> Any:
        require_known(function.__name__, given, known)
        return function(self, *args, **given)

    return cast(Method, method)


def require_known(method: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise `ConfigError` for a keyword that a method does not have, with the nearest one."""
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{method} has no option '{unknown[0]}'.{did_you_mean(unknown[0], known)}")


def _own(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]


def _signature(
    function: Callable[..., Any], fields: Mapping[str, FieldInfo], config: type[Options]
) -> inspect.Signature:
    own = _own(function)
    named = {parameter.name for parameter in own}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=type_of(name, config),
            default=inspect.Parameter.empty if field.is_required() else default_of(field),
        )
        for name, field in fields.items()
        if name not in named
    ]
    return inspect.signature(function).replace(parameters=[*own, *parameters])


def default_of(field: FieldInfo) -> Any:
    """Return the default of a field."""
    return field.get_default(call_default_factory=True, validated_data={})


def _help(function: Callable[..., Any], fields: Mapping[str, FieldInfo]) -> list[str]:
    named = {parameter.name for parameter in _own(function)}
    return [f"    {name}: {field.description or ''}" for name, field in fields.items() if name not in named]


# Types of keywords, as text


def type_of(name: str, config: type[Options]) -> str:
    """Return the type of a keyword as source text: more than the field holds, where `values_for` converts it.

    Args:
        name: name of the field.
        config: its config.
    """
    from ..config import EXTERNAL, REF

    field = config.model_fields[name]
    artifact = " | Artifact" if name in config.fields_with(REF) else ""
    artifact = " | Path | Artifact" if name in config.fields_with(EXTERNAL) else artifact
    return _text(field.annotation, f"str{artifact}")


def _text(annotation: Any, text: str) -> str:
    """Return a type as source text, with `text` for the type of a text."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _text(arguments[0], text)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(part for each in arguments for part in _text(each, text).split(" | ")))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]".replace("'", '"')
    if annotation is type(None):
        return "None"
    if annotation in (str, Path):
        return text if annotation is str else f"{text} | Path"
    if annotation in (int, float, bool):
        return str(annotation.__name__)
    plain = origin or annotation
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return f"Mapping[{', '.join(_text(each, 'str') for each in arguments) or 'str, Any'}]"
    if isinstance(plain, type) and issubclass(plain, Sequence):
        return f"Sequence[{_text(arguments[0], text) if arguments else 'Any'}]"
    return "Any"


# Values of keywords


def values_for(store: Store, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call as a config takes them: the name of an artifact, the text of a path.

    Args:
        store: the store of the artifacts.
        given: option -> value.

    Raises:
        ConfigError: an artifact is not in this store under its name any more.
    """
    return {name: _value(store, name, value) for name, value in given.items()}


def _value(store: Store, option: str, value: Any) -> Any:
    from ..store import Artifact

    if isinstance(value, Artifact):
        return _name(store, option, value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_value(store, option, each) for each in value]
    return value


def _name(store: Store, option: str, artifact: Artifact) -> str:
    """Return the name of an artifact, if the name still means this artifact."""
    if not store.has(artifact.name) or store.get(artifact.name).fingerprint != artifact.fingerprint:
        raise ConfigError(
            f"{option}: the store {store.root} has no finished artifact '{artifact.name}' of this fingerprint: it was "
            "replaced, removed, or is of another store. Make it again, or give a name."
        )
    return artifact.name
