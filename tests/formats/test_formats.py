"""Rows of every format become samples or are rejected with a reason; rows that are written can be read again."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import formats
from curate.errors import ConfigError, DataError
from curate.formats import EXPORT_FORMATS, Unusable, detect, parse_columns, to_rows, to_sample
from curate.samples import Sample, from_row, to_json, to_table

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
UNKNOWN = "unknown role {}: --roles NAME=assistant (or user, system, tool) maps it"

SAME = {
    "messages": {"messages": [QUESTION, ANSWER]},
    "sharegpt": {"conversations": [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "prompt-completion": {"prompt": "What is 2 + 2?", "completion": "4"},
    "alpaca": {"instruction": "What is 2 + 2?", "input": "", "output": "4"},
}


def read(row: dict[str, Any], **columns: str) -> Sample:
    return to_sample(row, detect([row], columns, "a test"), "here")


def why_not(row: dict[str, Any]) -> str:
    with pytest.raises(Unusable) as error:
        read(row)
    return str(error.value)


@pytest.mark.parametrize("name", SAME)
def test_one_conversation_has_one_id_in_every_format(name: str) -> None:
    sample = read(SAME[name] | {"domain": "math"})
    assert sample.format == name
    assert list(sample.messages) == [QUESTION, ANSWER]
    assert sample.sample_id == read(SAME["messages"]).sample_id
    assert sample.metadata == {"domain": "math"}
    assert sample.original == SAME[name] | {"domain": "math"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 2?", "response": "4"},
        {"question": "What is 2 + 2?", "answer": "4"},
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"conversation": [QUESTION, ANSWER]},
        {"messages": json.dumps([QUESTION, ANSWER])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is "}, "2 + 2?"]}, ANSWER]},
    ],
)
def test_other_spellings_are_understood(row: dict[str, Any]) -> None:
    assert list(read(row).messages) == [QUESTION, ANSWER]


def test_alpaca_joins_instruction_and_input_after_system_and_history() -> None:
    row = {"instruction": "Add.", "input": "2 2", "output": "4", "system": "Be short.", "history": [["Hi", "Hello"]]}
    turns = [(message["role"], message["content"]) for message in read(row).messages]
    assert turns == [
        ("system", "Be short."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Add.\n\n2 2"),
        ("assistant", "4"),
    ]


def test_plain_text_is_one_message_of_its_own_role() -> None:
    sample = read({"text": "Once upon a time.", "url": "x"})
    assert sample.is_text and sample.messages[0]["content"] == "Once upon a time."


def test_tool_calls_are_the_same_from_messages_and_from_sharegpt() -> None:
    chat = read(
        {"messages": [QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, ANSWER], "tools": TOOLS}
    )
    turns = [
        {"from": "human", "value": "What is 2 + 2?"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "gpt", "value": "4"},
    ]
    assert read({"conversations": turns, "tools": json.dumps(TOOLS)}).sample_id == chat.sample_id
    assert chat.tools == TOOLS


def test_tool_schemas_and_arguments_keep_the_order_of_their_keys_and_the_id_does_not_depend_on_it() -> None:
    def sample(*, turned: bool) -> Sample:
        step = -1 if turned else 1
        arguments = dict([("unit", "C"), ("city", "Oslo"), ("at", {"y": 1, "x": 2})][::step])
        call = {"type": "function", "function": dict([("name", "weather"), ("arguments", arguments)][::step])}
        tool = {"type": "function", "function": dict([("name", "weather"), ("description", "d")][::step])}
        return read({"messages": [QUESTION, {"role": "assistant", "tool_calls": [call]}, ANSWER], "tools": [tool]})

    one, other = sample(turned=False), sample(turned=True)
    assert one.sample_id == other.sample_id
    for made in (one, other):
        stored = from_row(to_table([made], 0).to_pylist()[0])
        assert json.dumps([*stored.messages, stored.tools]) == json.dumps([*made.messages, made.tools])
        (row,) = to_rows([stored], "sharegpt")
        again = read(row)
        assert json.dumps([again.messages[1]["tool_calls"], again.tools]) == json.dumps(
            [made.messages[1]["tool_calls"], made.tools]
        )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": " \n"}, "empty completion"),
        ({"prompt": "", "completion": "b"}, "empty prompt"),
        ({"prompt": {"a": 3}, "completion": "b"}, "a turn without a role (its keys: 'a')"),
        ({"instruction": ["a"], "output": "b"}, "wrong type in column instruction"),
        ({"prompt": "a", "completion": [QUESTION]}, "no assistant turn"),
        ({"instruction": "a", "input": [], "output": "b"}, "wrong type in column input"),
        ({"messages": []}, "no messages"),
        ({"messages": "not a list"}, "not JSON in a column that must be"),
        ({"messages": 4}, "wrong type in column messages"),
        ({"messages": ["hello"]}, "wrong type in column messages"),
        ({"messages": [QUESTION]}, "no assistant turn"),
        ({"messages": [ANSWER]}, "no user turn"),
        ({"messages": [QUESTION, {"role": "robot", "content": "4"}]}, UNKNOWN.format("'robot'")),
        ({"messages": [QUESTION, {"role": [], "content": "4"}]}, UNKNOWN.format("'[]'")),
        ({"messages": [QUESTION, {"role": "assistant", "content": None}]}, "empty completion"),
        ({"messages": [QUESTION, ANSWER | {"content": float("inf")}]}, "wrong type of content"),
        ({"messages": [QUESTION | {"content": [{"type": "image_url"}]}, ANSWER]}, "content that is not text"),
        ({"messages": [QUESTION, ANSWER | {"tool_calls": 3}]}, "wrong type of tool_calls"),
        ({"messages": [QUESTION, ANSWER], "tools": {}}, "wrong type in column tools"),
        ({"messages": [{"role": "system", "content": "a"}, QUESTION, ANSWER], "system": "b"}, "two system messages"),
        ({"conversations": [{"from": "alien", "value": "b"}]}, UNKNOWN.format("'alien'")),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "function call without a name"),
        ({"text": "  "}, "empty text"),
        ({"text": "\ud800"}, "not valid Unicode"),
        ({"text": "fine", "note": "\udfff"}, "not valid Unicode"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected_with_a_reason(row: dict[str, Any], reason: str) -> None:
    assert why_not(row) == reason


@pytest.mark.parametrize("part", ["note", "tools", "messages"])
def test_a_row_that_is_nested_too_deeply_is_rejected_before_a_reader_runs_out_of_stack(part: str) -> None:
    def row(depth: int) -> dict[str, Any]:
        value: Any = "x"
        for level in range(depth):
            value = {"k": value} if level % 2 else [value]
        message = {"role": "assistant", "content": "a", "name": value} if part == "messages" else ANSWER
        return {"messages": [QUESTION, message], part: [QUESTION, message] if part == "messages" else [value]}

    assert why_not(row(500)) == why_not(row(5000)) == why_not(row(70)) == "nested too deeply"
    assert read(row(50)).sample_id


def test_a_file_has_the_format_that_most_of_its_first_rows_fit() -> None:
    rows = [{"prompt": "a", "completion": "b", "text": None}] + [{"text": "c"}] * 3
    assert detect(rows, {}, "f").format == "text"
    assert detect([{"messages": [], "text": "t"}], {}, "f").format == "messages"


def test_columns_given_by_the_user_go_before_names_that_are_known() -> None:
    row = {"frage": "What is 2 + 2?", "antwort": "4", "text": "no"}
    sample = read(row, **parse_columns("prompt=frage, completion=antwort"))
    assert list(sample.messages) == [QUESTION, ANSWER] and sample.metadata == {"text": "no"}
    assert parse_columns({"prompt": "frage,completion=antwort"}) == {"prompt": "frage", "completion": "antwort"}
    assert parse_columns("prompt=a,b") == {"prompt": "a,b"}


def test_columns_that_fit_nothing_are_named_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"frage, antwort.*--columns prompt=COLUMN"):
        detect([{"frage": "a", "antwort": "b"}], {}, "f.csv")
    with pytest.raises(DataError, match=r"no column 'promt'.*Did you mean 'prompt'"):
        detect([{"prompt": "a", "completion": "b"}], {"prompt": "promt"}, "f.csv")
    with pytest.raises(ConfigError, match="all of the parts"):
        detect([{"a": "b"}], {"text": "a", "messages": "a"}, "f.csv")
    for wrong in ("promt=a", "prompt", "prompt="):
        with pytest.raises(ValueError):
            parse_columns(wrong)


# Writing


@pytest.mark.parametrize("name", [name for name in EXPORT_FORMATS if name != "original"])
def test_a_simple_conversation_is_written_as_the_row_of_that_format(name: str) -> None:
    assert to_rows([read(SAME["messages"])], name) == [SAME[name]]


def test_a_loss_is_an_error_that_names_the_sample_and_the_formats_that_fit() -> None:
    long = read({"messages": [QUESTION, ANSWER, QUESTION, ANSWER]})
    with pytest.raises(DataError, match=rf"{long.sample_id}.*4 messages.*fits: original, messages, .*sharegpt"):
        to_rows([read(SAME["alpaca"]), long], "alpaca")
    tooled = read({"messages": [QUESTION, ANSWER], "tools": TOOLS})
    with pytest.raises(DataError, match="with tools"):
        to_rows([tooled], "alpaca")
    with pytest.raises(DataError, match=r"plain text.*fits: original\."):
        to_rows([read({"text": "a"})], "messages")
    with pytest.raises(DataError, match="prompt-completion without loss"):
        to_rows([read({"messages": [QUESTION, ANSWER, QUESTION]})], "prompt-completion")


def test_prompts_are_lists_of_messages_as_soon_as_one_must_be() -> None:
    system = {"role": "system", "content": "s"}
    rows = to_rows([read(SAME["alpaca"]), read({"messages": [system, QUESTION, ANSWER]})], "prompt-completion")
    assert rows == [
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"prompt": [system, QUESTION], "completion": [ANSWER]},
    ]


def test_original_rows_of_several_formats_make_no_one_table() -> None:
    with pytest.raises(DataError, match="alpaca, messages"):
        to_rows([read(SAME["alpaca"]), read(SAME["messages"])], "original")


# Laws

texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["\x00", " ", "\ufeff", "{}"])
not_blank = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "robot"]) | json_like,
        "content": texts | json_like,
        "from": st.sampled_from(["human", "gpt", "function_call"]) | json_like,
        "value": texts | json_like,
        "tool_calls": json_like,
        "function_call": json_like,
    },
)
PARTS = ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "history", "text"]
wild_rows = st.dictionaries(
    st.sampled_from([*PARTS, "system", "tools", "other"]), json_like | texts | st.lists(turns, max_size=3), max_size=6
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wild_rows)
def test_any_row_becomes_a_sample_or_is_rejected_with_a_reason(row: dict[str, Any]) -> None:
    try:
        layout = detect([row], {}, "f")
        sample = to_sample(row, layout)
    except (DataError, Unusable) as reason:
        assert str(reason)
        return
    again = from_row(to_table([sample], 0).to_pylist()[0])
    assert again.sample_id == sample.sample_id
    assert list(again.original) == list(row)


chats = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), not_blank), min_size=1, max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chats, st.sampled_from(["messages", "prompt-completion", "alpaca", "sharegpt"]))
def test_what_is_written_and_read_again_is_the_same_conversation(chat: list[tuple[str, str]], name: str) -> None:
    messages = [{"role": "user", "content": "q"}, *({"role": r, "content": c} for r, c in chat)]
    sample = Sample([*messages, {"role": "assistant", "content": "a"}])
    try:
        rows = to_rows([sample], name)
    except DataError:
        assert len(sample.messages) > 2 and (
            name == "alpaca" or (name == "prompt-completion" and "assistant" in [role for role, _ in chat])
        )
        return
    assert read(json.loads(json.dumps(rows[0]))).sample_id == sample.sample_id


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]), "content": st.none() | st.text()},
        optional={"name": st.none() | st.text(), "train": st.just(False)},
    )
    | st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}),
    max_size=3,
)


@given(messages=MESSAGES, tools=st.sampled_from([None, [], [{"name": "f"}]]))
@settings(deadline=None)
def test_an_id_is_the_hash_of_the_canonical_json_of_messages_and_tools(messages: Any, tools: Any) -> None:
    dense = [{key: value for key, value in each.items() if value is not None or key == "content"} for each in messages]
    text = to_json([dense, tools or None])
    assert Sample(messages, tools).sample_id == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize("text", ['"\\/\b\n\x00\x1f\x7f', "\u2028 \u00e9 \U0001f600", ""])
def test_an_id_escapes_as_json_does(text: str) -> None:
    content = [[{"role": "user", "content": text}], None]
    written = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.blake2b(written.encode(), digest_size=16).hexdigest()
    assert Sample([{"role": "user", "content": text}]).sample_id == digest


def test_public_names_stay_themselves_where_modules_have_the_same_names() -> None:
    for file in Path(formats.__file__).parent.glob("*.py"):
        import_module(f"curate.formats.{file.stem}" if file.stem != "__init__" else "curate.formats")
    assert not [name for name in formats.__all__ if isinstance(getattr(formats, name), ModuleType)]
