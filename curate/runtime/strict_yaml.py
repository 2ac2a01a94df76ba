"""YAML as configs are written: safe types only, no key twice, no more of it than somebody has typed.

Configs are passed around, so a file is bounded in bytes, in depth and in what its aliases come to (`*a` of lists of
`*a` grows without end, and a merge `<<` copies it). A key that comes twice is an error: YAML would take the last.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

LARGEST = 256_000
"""Bytes of a file."""
NODES = 100_000
"""Values in a file, those behind an alias counted wherever it stands."""
DEPTH = 50
MERGE = "tag:yaml.org,2002:merge"


class NotYaml(Exception):
    """What is wrong, and in which line."""


class _Loader(yaml.SafeLoader):
    """Safe types, and numbers of a length that can be printed."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A number that can be printed: in other bases YAML has longer ones."""
        value = int(super().construct_yaml_int(node))
        if value.bit_length() > 1024:
            raise NotYaml(f"the number in line {node.start_mark.line + 1} is too long")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse(text: str | bytes) -> Any:
    """The one document of a YAML text.

    Raises:
        NotYaml: it is none, or more than a config may be.
    """
    if len(text) > LARGEST:
        raise NotYaml(f"it is larger than {LARGEST // 1000} kB")
    try:
        loader = _Loader(text)
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
        raise NotYaml(f"it holds a value that cannot be read: {error}") from None


def _measure(loader: _Loader, node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node comes to; `NotYaml` for too many, too deep, a key twice, or one that holds itself."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise NotYaml(f"{_line(node)} holds itself")
        return known[id(node)]
    if depth > DEPTH:
        raise NotYaml(f"{_line(node)} is nested deeper than {DEPTH} levels")
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        _refuse_repeats(loader, node)
        parts = [part for pair in node.value for part in pair]
    total = 1
    for part in parts:
        total += _measure(loader, part, known, depth + 1)
        if total > NODES:
            raise NotYaml(f"{_line(node)} comes to more than {NODES} values, with what its aliases stand for")
    known[id(node)] = total
    return total


def _refuse_repeats(loader: _Loader, node: yaml.MappingNode) -> None:
    """Of merged mappings (`<<`) a key may come again: it is overwritten, which is their use."""
    seen: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise NotYaml(f"the key '{key}' of line {seen[key]} comes again in line {key_node.start_mark.line + 1}")
        seen[key] = key_node.start_mark.line + 1


def _line(node: yaml.Node) -> str:
    return f"what begins in line {node.start_mark.line + 1}"
