"""Rows in the shapes of well-known data sets and services come in whole, or are rejected with a true reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curate.errors import DataError
from curate.formats import Notes, ReadOptions, parse_take, read_location
from curate.samples import Sample

from .test_layouts import contents, samples_and_reasons

TOOL = {"name": "tide", "description": "Tells the tide.", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
RESULT = {"role": "tool", "content": "low"}


def sample(row: dict[str, Any], reading: ReadOptions | None = None) -> Sample:
    (found,) = samples_and_reasons([row], reading)
    assert isinstance(found, Sample), found
    return found


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"inputs": "Spell one", "targets": "o-n-e", "task": "t"}, ["Spell one", "o-n-e"]),
        ({"problem": "1+1?", "solution": "It is 2.", "level": 1}, ["1+1?", "It is 2."]),
        ({"input": "Spell one", "output": "o-n-e"}, ["Spell one", "o-n-e"]),
        ({"input": "Spell one", "target": "o-n-e"}, ["Spell one", "o-n-e"]),
        ({"instruction": "Spell", "input": "one", "generation": "o-n-e"}, ["Spell\n\none", "o-n-e"]),
        ({"user": "Hi", "assistant": "Hello", "system": "Be kind"}, ["Be kind", "Hi", "Hello"]),
        ({"human": "Hi", "bot": "Hello"}, ["Hi", "Hello"]),
        ({"Question": "Hi", "ANSWER": "Hello", " Context ": "noon"}, ["Hi\n\nnoon", "Hello"]),
        ({"prompt": "Hi", "completion": "Hello", "system_instruction": "Be kind"}, ["Be kind", "Hi", "Hello"]),
        (
            {"question": "Where?", "choices": {"text": ["Oslo"], "label": ["A"]}, "answerKey": "A"},
            ["Where?\n\nA. Oslo", "A"],
        ),
        (
            {
                "question": "Where?",
                "context": "It is Oslo.",
                "answers": {"text": ["Oslo", "Oslo"], "answer_start": [6, 6]},
            },
            ["Where?\n\nIt is Oslo.", "Oslo"],
        ),
        ({"question": "Where?", "answer": ["Oslo"]}, ["Where?", "Oslo"]),
        ({"conversations": ["Hi", "Hello", "How?", "Well."]}, ["Hi", "Hello", "How?", "Well."]),
        ({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}, ["Hi", "Hello"]),
        (
            {
                "messages": [
                    {"role": "user", "parts": [{"text": "Hi"}]},
                    {"role": "model", "parts": [{"text": "Hello"}]},
                ]
            },
            ["Hi", "Hello"],
        ),
        (
            {
                "conversations": [{"from": "system", "value": "Be kind"}, {"human": "Hi", "gpt": "Hello"}],
                "system_prompt": "Be kind",
            },
            ["Be kind", "Hi", "Hello"],
        ),
    ],
)
def test_columns_of_known_data_sets_are_a_conversation(row: dict[str, Any], expected: list[str]) -> None:
    assert contents([row]) == [expected]


def test_names_of_a_pair_mean_what_they_did_where_a_row_has_the_columns_of_a_format() -> None:
    assert contents([{"instruction": "Add", "input": "1 1", "output": "2", "problem": "p", "solution": "s"}]) == [
        ["Add\n\n1 1", "2"]
    ]
    assert contents([{"prompt": "Hi", "input": "a b", "completion": "Hello", "output": "x"}]) == [
        ["Hi\n\na b", "Hello"]
    ]
    assert contents([{"text": "Oslo", "input": "a", "output": "b"}]) == [["Oslo"]]
    rows: list[dict[str, Any]] = [{"input": "a", "output": "b"}] * 3 + [
        {"instruction": "c", "input": "d", "output": "e"}
    ]
    assert contents(rows)[-1] == ["c\n\nd", "e"]
    assert contents([{"prompt": "Hi", "completion": "Hello", "Prompt": "a second prompt in capitals"}]) == [
        ["Hi", "Hello"]
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Where?", "answers": {"text": ["Oslo", "Oslo city"]}}, "2 different answers in column answers"),
        ({"question": "Where?", "answers": {"text": []}}, "no answer in column answers"),
        (
            {"prompt": "Where?", "answers": [{"answer": "Oslo", "rank": 1}, {"answer": "Rome", "rank": 2}]},
            "2 different",
        ),
        ({"question": "Where?", "answer": {"value": "Oslo", "aliases": []}}, "wrong type in column answer"),
        ({"text": "Hello", "role": "prompter", "parent_id": None}, "one message of a conversation (of 'prompter')"),
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "channel": "analysis", "content": "x"},
                ]
            },
            "a message in the channel 'analysis'",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "name": "tide"}]}]}, "not the assistant's"),
    ],
)
def test_what_is_no_one_conversation_is_rejected_with_the_reason(row: dict[str, Any], reason: str) -> None:
    (found,) = samples_and_reasons([row])
    assert isinstance(found, str) and reason in found


def test_rows_that_are_single_messages_are_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="Each row is one message"):
        samples_and_reasons([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])


def test_a_column_that_says_whether_there_is_reasoning_is_none() -> None:
    for text in ("off", "On", "true"):
        assert "reasoning_content" not in sample({"prompt": "Hi", "completion": "Hello", "reasoning": text}).messages[1]
    assert (
        sample({"prompt": "Hi", "completion": "Hello", "reasoning": "greet"}).messages[1]["reasoning_content"]
        == "greet"
    )


def answer(**keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, **keys}


@pytest.mark.parametrize(
    "called",
    [
        answer(tool_calls=[{"name": "tide", "arguments": {"port": "Brest"}}]),
        answer(tool_calls={"name": "tide", "parameters": {"port": "Brest"}}),
        answer(tool_calls=[{"type": "function", "function": {"name": "tide", "args": {"port": "Brest"}}}]),
        answer(tool_calls=json.dumps([CALL])),
        answer(function_call={"name": "tide", "arguments": {"port": "Brest"}}),
        {"role": "assistant", "content": [{"type": "tool_use", "name": "tide", "input": {"port": "Brest"}}]},
        {"type": "function_call", "name": "tide", "arguments": {"port": "Brest"}},
        {"from": "function_call", "value": '{"name": "tide", "arguments": {"port": "Brest"}}'},
    ],
)
def test_a_call_has_one_form_in_any_form(called: dict[str, Any]) -> None:
    row = {"messages": [{"role": "user", "content": "Tide?"}, called, RESULT, {"role": "assistant", "content": "Low."}]}
    made = sample(row | {"tools": [TOOL]})
    (call,) = made.messages[1]["tool_calls"]
    assert {key: value for key, value in call.items() if value is not None} == CALL
    assert made.messages[1]["role"] == "assistant" and not made.messages[1]["content"]


@pytest.mark.parametrize(
    "tool",
    [
        TOOL,
        {"type": "function", **TOOL},
        {"type": "function", "function": TOOL},
        {"name": "tide", "description": "Tells the tide.", "input_schema": TOOL["parameters"]},
    ],
)
def test_a_tool_has_one_form_in_any_form(tool: dict[str, Any]) -> None:
    made = sample({"prompt": "Tide?", "completion": "Low.", "tools": [tool]})
    assert made.tools == [{"type": "function", "function": TOOL}]


def test_a_result_of_a_tool_may_be_data_or_a_part_of_the_user_s_turn() -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Tide?"}, answer(tool_calls=[CALL])]
    end = {"role": "assistant", "content": "Low."}
    notes = Notes()
    data = sample(
        {"messages": [*turns, {"role": "tool", "content": {"tide": "low", "at": 3}}, end]}, ReadOptions(notes=notes)
    )
    assert data.messages[2]["content"] == '{"tide":"low","at":3}' and "results of tools" in next(iter(notes.changes))
    parts = [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "low"}]}]
    made = sample({"messages": [*turns, {"role": "user", "content": [*parts, {"type": "text", "text": "So?"}]}, end]})
    assert made.messages[2:4] == [RESULT | {"tool_call_id": "c"}, {"role": "user", "content": "So?"}]
    text = sample({"messages": [*turns, {"role": "tool", "content": [{"type": "text", "text": "low"}]}, end]})
    assert text.messages[2] == RESULT


def test_answers_that_are_json_of_calls_are_calls_where_the_row_has_tools() -> None:
    row = {"query": "Tide?", "answers": '[{"name": "tide", "arguments": {"port": "Brest"}}]'}
    assert sample(row).messages[1]["content"] == row["answers"]
    assert sample(row | {"tools": json.dumps([TOOL])}).messages[1]["tool_calls"] == [CALL]


def test_dialogues_of_human_and_assistant_in_one_text_are_turns_in_preference_data() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Human: you? \n\nAssistant: "
    take = ReadOptions(take=parse_take("chosen"), notes=Notes(strict=True))
    made = sample({"chosen": start + "Well.\n\nThanks.", "rejected": start + "Go."}, take)
    assert [(m["role"], m["content"], m.get("train")) for m in made.messages] == [
        ("user", "Hi", None),
        ("assistant", "Hello", False),
        ("user", "Human: you? ", None),
        ("assistant", "Well.\n\nThanks.", None),
    ]
    assert sample({"prompt": start, "chosen": "Well.\n\nThanks.", "rejected": "Go."}, take).messages == made.messages
    assert sample({"prompt": "The Human: a book?", "chosen": "Yes.", "rejected": "No."}, take).messages[0][
        "content"
    ] == ("The Human: a book?")


PAIRS = [("Name a tree", "Oak", 1), ("Name a tree", "Car", 0), ("Name a town", "Oslo", 1), ("Name a town", "Moss?", 0)]


def labelled(**further: Any) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": text, "label": label, **further} for prompt, text, label in PAIRS]


@pytest.mark.parametrize("write", [int, str, float])
def test_labels_of_0_and_1_are_kto_data_if_the_answers_differ(write: Any) -> None:
    rows = [row | {"label": write(row["label"])} for row in labelled()]
    found = samples_and_reasons(rows)
    assert all("KTO data" in str(one) and "--take label=true" in str(one) for one in found)
    assert all("--metadata-columns label" in str(one) for one in found)
    for text in ("label=true", "label=1"):
        taken = contents(rows, ReadOptions(take=parse_take(text), notes=Notes(strict=True)))
        refused = f"not taken: label is not {text[6:]}"
        assert taken == [["Name a tree", "Oak"], refused, ["Name a town", "Oslo"], refused]
    kept = contents(rows, ReadOptions(metadata=frozenset({"label"}), notes=Notes(strict=True)))
    assert [one[1] for one in kept] == ["Oak", "Car", "Oslo", "Moss?"]
    chats = [
        {"messages": [{"user": row["prompt"], "assistant": row["completion"]}], "label": row["label"]} for row in rows
    ]
    assert all("KTO data" in str(one) for one in samples_and_reasons(chats))


def test_labels_of_0_and_1_that_name_the_class_of_the_answer_are_metadata_and_told() -> None:
    named = [{"prompt": f"Good? {n}", "completion": ["bad", "good"][n % 2], "label": n % 2} for n in range(6)]
    more_classes = [row | {"label": n} for n, row in enumerate(labelled())]
    for rows in (named, labelled(source="web"), more_classes, [row | {"label": 1} for row in labelled()]):
        notes = Notes()
        found = contents(rows, ReadOptions(notes=notes))
        assert all(isinstance(one, list) for one in found)
        told = [count for text, count in notes.losses.items() if "--take label=true" in text]
        assert told == [sum(row["label"] in (0, 1) for row in rows)]


def test_what_is_left_out_is_counted_in_every_row() -> None:
    notes = Notes()
    row = {"prompt": "Where?", "completion": "Oslo", "hint": "x", "note": "It lies by the sea."}
    contents([row] * 731 + [row | {"note": "short"}] * 5, ReadOptions(notes=notes))
    assert sorted(notes.losses.values()) == [731, 736]


@pytest.mark.parametrize(
    "table",
    [
        {"prompt": {"0": "Hi", "1": "How?"}, "completion": {"0": "Hello", "1": "Well."}},
        {"prompt": ["Hi", "How?"], "completion": ["Hello", "Well."]},
    ],
)
def test_a_json_table_that_is_written_by_columns_is_read_by_rows(table: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(table))
    rows = [row.values for row in read_location(str(tmp_path / "t.json"), split="train")]
    assert rows == [{"prompt": "Hi", "completion": "Hello"}, {"prompt": "How?", "completion": "Well."}]


def test_one_conversation_as_json_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"conversations": ["Hi", "Hello"], "tags": ["a", "b"]}))
    (row,) = read_location(str(tmp_path / "t.json"), split="train")
    assert row.values is not None and contents([row.values]) == [["Hi", "Hello"]]


def test_a_csv_file_with_tabs_alone_is_separated_by_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt\tcompletion\nHi, you\tHello; you\n")
    (row,) = read_location(str(tmp_path / "t.csv"), split="train")
    assert row.values == {"prompt": "Hi, you", "completion": "Hello; you"}
