"""Flags, reasoning, roles, tools and pairs under all their names become one form; what is left out is noted."""

from __future__ import annotations

from typing import Any

import pytest

from curate.formats import Notes, ReadOptions, Unusable, detect, parse_roles, to_rows, to_sample
from curate.samples import Sample, from_row, to_table

ASK = {"role": "user", "content": "Name a river."}
SAY = {"role": "assistant", "content": "The Rhine."}


def read(row: dict[str, Any], reading: ReadOptions | None = None) -> Sample:
    return to_sample(row, detect([row], {}, "a test"), "here", reading)


def why_not(row: dict[str, Any], reading: ReadOptions | None = None) -> str:
    with pytest.raises(Unusable) as error:
        read(row, reading)
    return str(error.value)


def chat(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"messages": [ASK, *messages, {"role": "user", "content": "And a lake?"}, SAY], **columns}


FLAGGED = [
    {"weight": 0},
    {"weight": 0.0},
    {"train": False},
    {"loss": "false"},
    {"loss_mask": 0},
    {"trainable": False},
    {"training": False},
    {"masked": True},
    {"loss_scale": 0},
    {"weight": 0, "loss": False},
    {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
]


@pytest.mark.parametrize("flag", FLAGGED)
def test_a_turn_that_is_flagged_is_not_trained_on_and_the_flag_is_part_of_the_id(flag: dict[str, Any]) -> None:
    openai = read(chat({"role": "assistant", "content": "Mars"} | flag))
    sharegpt = read(
        {
            "conversations": [
                {"from": "human", "value": "Name a river."},
                {"from": "gpt", "value": "Mars"} | flag,
                {"from": "human", "value": "And a lake?"},
                {"from": "gpt", "value": "The Rhine."},
            ]
        }
    )
    parted = read(chat({"role": "assistant", "content": [{"type": "text", "text": "Mars", "weight": 0}]}))
    assert openai.messages[1] == {"role": "assistant", "content": "Mars", "train": False}
    assert openai.sample_id == sharegpt.sample_id == parted.sample_id
    assert openai.sample_id != read(chat({"role": "assistant", "content": "Mars"})).sample_id
    (row,) = to_rows([from_row(to_table([openai], 0).to_pylist()[0])], "messages")
    assert read(row).sample_id == openai.sample_id


@pytest.mark.parametrize("flag", [{"weight": 1}, {"train": True}, {"loss": 1.0}, {"masked": False}, {"weight": None}])
def test_a_flag_that_changes_nothing_is_no_part_of_the_id(flag: dict[str, Any]) -> None:
    plain = read(chat({"role": "assistant", "content": "Mars"}))
    assert read(chat({"role": "assistant", "content": "Mars"} | flag)).sample_id == plain.sample_id


def test_parts_of_a_message_that_are_flagged_become_ranges_of_characters() -> None:
    parts = [{"type": "text", "text": "Er, ", "weight": 0}, {"type": "text", "text": "the Rhine", "weight": 1}, "!"]
    detail = [{"begin_offset": 0, "end_offset": 3, "train": False}]
    message = read({"messages": [ASK, {"role": "assistant", "content": parts}]}).messages[1]
    assert message == {"role": "assistant", "content": "Er, the Rhine!", "train_detail": detail}
    given = [{"begin_offset": 2, "end_offset": 3, "train": False}, {"begin_offset": 0, "end_offset": 1, "train": 0}]
    whole = {"role": "assistant", "content": "Er, the Rhine!", "train_detail": given}
    assert read({"messages": [ASK, whole]}).messages[1] == message


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ({"weight": 0.5}, "the flag 'weight' of a message must be 0 or 1"),
        ({"loss": [1]}, "the flag 'loss' of a message must be 0 or 1"),
        ({"weight": 1, "train": False}, "contradict each other"),
        ({"mask": 1}, "rename it to train or masked"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 99, "train": False}]}, "train_detail of a message"),
        ({"train_detail": "all"}, "train_detail of a message"),
    ],
)
def test_a_flag_that_cannot_be_honoured_rejects_its_row(flag: dict[str, Any], reason: str) -> None:
    assert reason in why_not(chat({"role": "assistant", "content": "Mars"} | flag))


def test_a_conversation_whose_flags_leave_no_answer_is_rejected() -> None:
    assert why_not({"messages": [ASK, SAY | {"weight": 0}]}) == "flags of the messages leave no answer to train on"


def test_a_flag_that_asks_to_train_on_a_question_is_noted() -> None:
    notes = Notes()
    read({"messages": [ASK | {"train": True}, SAY]}, ReadOptions(notes=notes))
    assert any("turns of the user" in text for text in notes.losses)
    assert "turns of the user" in why_not(
        {"messages": [ASK | {"train": True}, SAY]}, ReadOptions(notes=Notes(strict=True))
    )


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_reasoning_has_one_name_whatever_it_was_called(name: str) -> None:
    expected = SAY | {"reasoning_content": "Rivers flow."}
    answers = [
        {"messages": [ASK, SAY | {name: "Rivers flow."}]},
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "gpt", "value": SAY["content"], name: "Rivers flow."},
            ]
        },
        {"prompt": ASK["content"], "completion": SAY["content"], name: "Rivers flow."},
        {"instruction": ASK["content"], "output": SAY["content"], name: "Rivers flow."},
        {
            "messages": [
                ASK,
                SAY
                | {
                    "content": [
                        {"type": "thinking", "thinking": "Rivers flow."},
                        {"type": "text", "text": "The Rhine."},
                    ]
                },
            ]
        },
    ]
    samples = [read(row) for row in answers]
    assert all(sample.messages[1] == expected for sample in samples)
    assert len({sample.sample_id for sample in samples}) == 1


def test_reasoning_that_is_already_in_the_answer_stays_a_column() -> None:
    sample = read({"prompt": "2+2?", "completion": "<think>two and two</think>4", "reasoning": "two and two"})
    assert sample.messages[1] == {"role": "assistant", "content": "<think>two and two</think>4"}
    assert sample.metadata == {"reasoning": "two and two"}
    assert "two texts of reasoning" in why_not({"messages": [ASK, SAY | {"thinking": "a", "reasoning": "b"}]})


NAMES = {
    "user": ("human", "Human ", "prompter"),
    "assistant": ("bot", "Bard", "model", "gpt4", "ai"),
    "system": ("developer",),
    "tool": ("observation", "ipython", "function", "function_response"),
}


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in NAMES.items() for name in names])
def test_names_of_speakers_in_the_data_of_the_field_are_known(role: str, name: str) -> None:
    row = {"conversations": [{"from": name, "value": "one"}, *[{"from": n, "value": n} for n in ("human", "gpt")]]}
    messages = [
        {"role": name, "content": "one"},
        {"role": "human", "content": "human"},
        {"role": "gpt", "content": "gpt"},
    ]
    assert read(row).messages[0]["role"] == read({"messages": messages}).messages[0]["role"] == role


def test_users_map_names_of_speakers_that_are_unknown() -> None:
    row = {"conversations": [{"from": "Alice", "value": "Hello?"}, {"from": "Bob=x", "value": "Yes."}]}
    assert "unknown role 'Alice'" in why_not(row) and "--roles" in why_not(row)
    roles = parse_roles("Alice=user, bob=x=assistant")
    assert [m["role"] for m in read(row, ReadOptions(roles=roles)).messages] == ["user", "assistant"]
    for wrong in ("Alice", "Alice=king", "=user"):
        with pytest.raises(ValueError):
            parse_roles(wrong)


@pytest.mark.parametrize("names", [("input", "output"), ("human", "assistant"), ("question", "answer")])
def test_an_item_may_be_a_question_with_its_answer(names: tuple[str, str]) -> None:
    one, two = names
    items = [{"system": "Be short.", one: "A?", two: "a"}, {one: "B?", two: "b", "weight": 0}, {one: "C?", two: 3}]
    messages = read({"conversation": items}).messages
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "Be short."),
        ("user", "A?"),
        ("assistant", "a"),
        ("user", "B?"),
        ("assistant", "b"),
        ("user", "C?"),
        ("assistant", "3"),
    ]
    assert [m.get("train") for m in messages] == [None, None, None, None, False, None, None]
    assert why_not({"conversation": [{"alpha": "x"}]}) == "a turn without a role (its keys: 'alpha')"


FUNCTION = {"name": "tide", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize("column", ["tools", "functions", "tool_defs", "available_tools"])
@pytest.mark.parametrize("tool", [TOOL, FUNCTION])
def test_tools_are_found_under_any_name_and_in_a_system_message(column: str, tool: dict[str, Any]) -> None:
    told = {"role": "system", "content": "s", column: [tool]}
    rows = [chat(**{column: [tool]}), {"prompt": [ASK], "completion": [SAY], column: [tool]}]
    rows += [{"messages": [told, ASK, SAY]}, {"messages": [told, ASK, SAY], "tools": [TOOL]}]
    assert [read(row).tools for row in rows] == [[TOOL]] * 4
    assert (
        why_not({"messages": [told, ASK, SAY], "tools": [FUNCTION | {"name": "x"}]}) == "two different lists of tools"
    )


def test_numbers_and_truth_values_become_text_and_this_is_noted() -> None:
    notes = Notes()
    reading = ReadOptions(notes=notes)
    assert read({"instruction": "2+2?", "output": 4}, reading).messages[1]["content"] == "4"
    assert read({"prompt": 12, "completion": True}, reading).messages[0]["content"] == "12"
    assert read({"prompt": "even?", "completion": True}, reading).messages[1]["content"] == "true"
    assert read({"messages": [ASK, SAY | {"content": 0.5}]}, reading).messages[1]["content"] == "0.5"
    assert notes.changes.total() == 5
    nan = float("nan")
    assert read({"instruction": "Go.", "input": nan, "output": "gone"}).messages[0]["content"] == "Go."
    layout = detect([{"instruction": "Go.", "output": "gone"}], {}, "f")
    with pytest.raises(Unusable, match="empty completion"):
        to_sample({"instruction": "Go.", "output": nan}, layout)


@pytest.mark.parametrize("key", ["images", "image", "audio"])
def test_images_and_sound_reject_a_row_wherever_they_are(key: str) -> None:
    row = {"conversations": [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A cat."}]}
    assert "content that is not text" in why_not(row | {key: "cat.jpg"})
    assert "content that is not text" in why_not({"messages": [ASK | {key: ["cat.jpg"]}, SAY]})
    assert read(row | {key: None}).messages and read(row | {key: []}).messages


def test_keys_of_messages_that_hold_sentences_are_noted_and_small_ones_are_not() -> None:
    notes = Notes()
    message = SAY | {"id": "a-1", "critique": "This answer is far too short."}
    read({"messages": [ASK, message]}, ReadOptions(notes=notes))
    assert list(notes.losses) == ["the key 'critique' of messages, which is no part of the text"]


def test_turns_of_the_assistant_in_a_prompt_are_not_trained_on() -> None:
    prompt = [ASK, {"role": "assistant", "content": "Mars"}, {"role": "user", "content": "A river."}]
    sample = read({"prompt": prompt, "completion": [SAY]})
    assert [message.get("train") for message in sample.messages] == [None, False, None, None]
    (row,) = to_rows([sample], "prompt-completion")
    assert row == {"prompt": prompt, "completion": [SAY]}
