"""Read YAML with limits: only safe types, no repeated key, and no more content than a person would type.

Users pass configs to each other, so a file is limited in bytes, in depth and in the number of values after its aliases
are expanded (lists of `*a` of lists of `*a` grow without end, and a merge `<<` copies values). A repeated key is an
error, because YAML would silently use the last one.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

LARGEST = 256_000
"""Maximum bytes of a file."""
NODES = 100_000
"""Maximum number of values in a file; a value behind an alias counts at every use of the alias."""
DEPTH = 50
"""Maximum levels of nesting."""
MERGE = "tag:yaml.org,2002:merge"


class NotYaml(Exception):
    """Text that is not YAML, or exceeds a limit; the message says what is wrong, and in which line."""


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return the loader of safe types, and of integers that are short enough to print.

    Most commands read no YAML, so it is imported here.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Loader of this module."""

        def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
            """Return an integer that Python can print: in bases other than 10, YAML allows longer ones."""
            value = int(super().construct_yaml_int(node))
            if value.bit_length() > 1024:
                raise NotYaml(f"the number in line {node.start_mark.line + 1} is too long")
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader


def parse(text: str | bytes) -> Any:
    """Return the only document of a YAML text.

    Raises:
        NotYaml: the text is not one YAML document, or exceeds a limit.
    """
    import yaml

    if len(text) > LARGEST:
        raise NotYaml(f"it is larger than {LARGEST // 1000} kB")
    try:
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(loader, node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise NotYaml(" ".join(str(error).split())) from None
    except RecursionError:
        raise NotYaml(f"it is nested deeper than {DEPTH} levels") from None
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError) as error:  # the 31st of February
        raise NotYaml(f"it contains a value that cannot be read: {error}") from None


def _measure(loader: yaml.SafeLoader, node: yaml.Node, counts: dict[int, int], depth: int) -> int:
    """Return the number of values in a node, with those behind its aliases.

    Raises:
        NotYaml: there are too many values or levels, a key is repeated, or a node contains itself.
    """
    import yaml

    if id(node) in counts:
        if counts[id(node)] == 0:
            raise NotYaml(f"{_position(node)} contains itself")
        return counts[id(node)]
    if depth > DEPTH:
        raise NotYaml(f"{_position(node)} is nested deeper than {DEPTH} levels")
    counts[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        _check_repeated_keys(loader, node)
        parts = [part for pair in node.value for part in pair]
    total = 1
    for part in parts:
        total += _measure(loader, part, counts, depth + 1)
        if total > NODES:
            raise NotYaml(f"{_position(node)} has more than {NODES} values, including those behind aliases")
    counts[id(node)] = total
    return total


def _check_repeated_keys(loader: yaml.SafeLoader, node: yaml.MappingNode) -> None:
    """Raise `NotYaml` for a repeated key. Keys of merged mappings (`<<`) may repeat: a merge allows overwriting."""
    import yaml

    lines: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
            continue
        key = loader.construct_object(key_node)
        if key in lines:
            raise NotYaml(f"the key '{key}' in line {lines[key]} is repeated in line {key_node.start_mark.line + 1}")
        lines[key] = key_node.start_mark.line + 1


def _position(node: yaml.Node) -> str:
    return f"the value that begins in line {node.start_mark.line + 1}"
