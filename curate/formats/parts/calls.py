"""Read definitions and calls of tools in the forms of several services: OpenAI's two, Anthropic's, bare functions.

In a sample a tool and a call have type `function`, and the arguments of a call stand under `arguments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reading import ReadOptions, Unusable, is_missing
from ..strict_json import RepeatedKey, decode

Message = dict[str, Any]

ARGUMENTS = ("parameters", "args", "input", "kwargs")
"""Other names of the arguments of a call."""
CALL_ITEMS: Mapping[str, str] = {"function_call": "assistant", "function_call_output": "tool"}
"""Types of the items of a conversation without a role that do the same (OpenAI's responses) -> role."""


def call_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of `CALL_ITEMS` as a message."""
    name = item.get("call_id")
    if item["type"] == "function_call_output":
        return {"content": item.get("output"), "tool_call_id": name}
    function = {key: item[key] for key in ("name", "arguments") if key in item}
    return {"content": None, "tool_calls": [{"id": name, "type": "function", "function": function}]}


def calling(value: Any) -> Message:
    """Return the message of a speaker whose text is a call, or a list of calls, as JSON.

    Raises:
        Unusable: the text is no JSON, or a call has no name.
    """
    called = from_json(value or "") if isinstance(value, str) or value is None else value
    calls = [_call(call) for call in (called if isinstance(called, list) else [called])]
    if not calls:
        raise Unusable("empty function call")
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tool_calls(item: Mapping[str, Any], reading: ReadOptions) -> list[Any] | None:
    """Return the calls of a message; None if there are none.

    Raises:
        Unusable: they have another form.
    """
    calls = item.get("tool_calls")
    if isinstance(calls, str):
        calls = from_json(calls)
    if isinstance(calls, Mapping):
        calls = [calls]
    if calls is None and item.get("function_call") is not None:
        calls = [_call(item["function_call"])]
    if not calls:
        return None
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise Unusable("wrong type of tool_calls")
    return [_full_call(call, reading) for call in calls]


def _full_call(call: Mapping[str, Any], reading: ReadOptions) -> Mapping[str, Any]:
    """Return a call in the form that chat templates read: of type function, with its arguments under this name."""
    function = call.get("function")
    if isinstance(function, Mapping):
        named = _named_arguments(function)
        return call if named is function else {**call, "function": named}
    if function is not None or not isinstance(call.get("name"), str):
        raise Unusable("function call without a name")
    reading.notes.change("bare calls written as calls of type function")
    known = {"id": call["id"]} if call.get("id") is not None else {}
    return known | _call({key: value for key, value in call.items() if key not in ("id", "type")})


def _call(called: Any) -> dict[str, Any]:
    if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
        raise Unusable("function call without a name")
    return {"type": "function", "function": dict(_named_arguments(called))}


def _named_arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a function that is called with its arguments as `arguments`."""
    other = next((key for key in ARGUMENTS if key in function), None)
    if "arguments" in function or other is None:
        return function
    return {"arguments" if key == other else key: value for key, value in function.items()}


def tool_list(value: Any, wrong: Unusable, reading: ReadOptions) -> list[Any]:
    """Return definitions of tools as chat templates expect them: bare functions become tools of type function.

    Args:
        value: list of definitions, or JSON text of one.
        wrong: the error to raise if it is something else.
        reading: how rows are read.
    """
    if isinstance(value, str):
        value = from_json(value) if value.strip() else []
    if is_missing(value):
        return []
    if not isinstance(value, list):
        raise wrong
    return [_tool(tool, reading) for tool in value]


def _tool(tool: Any, reading: ReadOptions) -> Any:
    if (
        isinstance(tool, Mapping)
        and isinstance(tool.get("name"), str)
        and "function" not in tool
        and tool.get("type", "function") in ("function", "custom")
    ):
        reading.notes.change("bare functions written as tools of type function")
        renamed = {"input_schema": "parameters"} if "parameters" not in tool else {}
        function = {renamed.get(key, key): value for key, value in tool.items() if key != "type"}
        return {"type": "function", "function": function}
    return tool


def from_json(text: str) -> Any:
    """Return the value of JSON text in a row.

    Raises:
        Unusable: the text is not JSON.
    """
    try:
        return decode(text)
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except RepeatedKey:
        raise Unusable("a key comes twice") from None
    except ValueError:
        raise Unusable("not JSON in a column that must be") from None
