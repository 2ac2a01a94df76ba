"""Each row has the layout of its own columns: late columns, several names, several formats, and data of preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from curate.errors import DataError
from curate.formats import Notes, ReadOptions, Row, Unusable, parse_take, to_sample, with_layout
from curate.samples import Sample

Rows = Sequence[dict[str, Any]]


def samples_and_reasons(rows: Rows, reading: ReadOptions | None = None, **given: str) -> list[Sample | str]:
    reading = reading or ReadOptions()
    found: list[Sample | str] = []
    for row, layout in with_layout((Row("f", n, values) for n, values in enumerate(rows, 1)), given, reading):
        try:
            if layout is None:
                raise Unusable(row.reason)
            assert row.values is not None
            found.append(to_sample(row.values, layout, "s", reading))
        except Unusable as reason:
            found.append(str(reason))
    return found


def contents(rows: Rows, reading: ReadOptions | None = None, **given: str) -> list[list[str] | str]:
    """Return the texts of each sample, or the reason of the reject."""
    found = samples_and_reasons(rows, reading, **given)
    return [one if isinstance(one, str) else [str(m["content"]) for m in one.messages] for one in found]


SHORT = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(150)]


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ({"input": "five"}, ["Spell.\n\nfive", "f-i-v-e"]),
        ({"system": "Be slow."}, ["Be slow.", "Spell.", "f-i-v-e"]),
        ({"history": [["Hi", "Hello"]]}, ["Hi", "Hello", "Spell.", "f-i-v-e"]),
        ({"system_prompt": "Be slow.", "context": "five"}, ["Be slow.", "Spell.\n\nfive", "f-i-v-e"]),
    ],
)
def test_a_part_that_appears_late_in_a_file_is_read(late: dict[str, Any], expected: list[str]) -> None:
    row = {"instruction": "Spell.", "output": "f-i-v-e"} | late
    found = samples_and_reasons([*SHORT, row])
    assert contents([*SHORT, row])[-1] == expected
    assert isinstance(found[-1], Sample) and found[-1].metadata == {}
    assert contents([*SHORT, row])[0] == ["Say 0.", "0"]


def test_late_tools_and_late_columns_that_the_user_names_are_read() -> None:
    tool = {"type": "function", "function": {"name": "spell"}}
    chats: list[dict[str, Any]] = [{"messages": [{"human": "a", "assistant": "b"}]} for _ in range(120)]
    last = samples_and_reasons([*chats, chats[0] | {"tools": [tool]}])[-1]
    assert isinstance(last, Sample) and last.tools == [tool]
    row = {"instruction": "Spell.", "output": "o-n-e", "word": "one"}
    assert contents([*SHORT, row], input="word")[-1] == ["Spell.\n\none", "o-n-e"]
    with pytest.raises(DataError, match=r"no column 'wrod'.*Did you mean 'word'"):
        contents([*SHORT, row], input="wrod")


def test_a_part_has_other_names_in_other_rows_of_a_file() -> None:
    rows = [{"question": f"{n}?", "answer": "a"} for n in range(3)] + [{"prompt": "3?", "response": "b"}]
    assert contents(rows) == [["0?", "a"], ["1?", "a"], ["2?", "a"], ["3?", "b"]]
    notes = Notes()
    two = {"question": "Who?", "answer": "The old king of the north.", "response": "A king, says the book of kings."}
    (sample,) = samples_and_reasons([two], ReadOptions(notes=notes))
    assert isinstance(sample, Sample) and sample.messages[1]["content"] == two["response"]
    assert sample.metadata == {"answer": two["answer"]} and "'answer'" in next(iter(notes.losses))


def test_rows_of_one_file_may_have_several_formats() -> None:
    rows = [
        {"instruction": "a?", "output": "a"},
        {"messages": [{"role": "user", "content": "b?"}, {"role": "assistant", "content": "b"}]},
    ]
    rows += [{"question": "c?", "answer": "c"}, {"text": "d"}, {"foo": "e", "bar": 1}, {"instruction": "f?"}, SHORT[0]]
    assert contents(rows) == [
        ["a?", "a"],
        ["b?", "b"],
        ["c?", "c"],
        ["d"],
        "columns that fit no format ('foo', 'bar'): name them with --columns",
        "empty completion",
        ["Say 0.", "0"],
    ]
    table = [{"instruction": "a?", "output": "a", "text": "x"}, {"instruction": "b?", "output": None, "text": "x"}]
    assert contents(table) == [["a?", "a"], "empty completion"], "an answer that is missing makes no plain text"


@pytest.mark.parametrize(
    ("columns", "question"),
    [
        ({"context": "A map."}, "Where?\n\nA map."),
        ({"input": "A map."}, "Where?\n\nA map."),
        ({"context": "A map.", "input": "North."}, "Where?\n\nA map.\n\nNorth."),
        ({"choices": ["Oslo", "Rome"]}, "Where?\n\nA. Oslo\nB. Rome"),
        ({"options": {"label": ["1", "2"], "text": ["Oslo", "Rome"]}}, "Where?\n\n1. Oslo\n2. Rome"),
        ({"documents": ["One.", {"title": "T", "text": "Two."}]}, "Where?\n\nOne.\n\nT\nTwo."),
        ({"context": float("nan")}, "Where?"),
        ({"context": 7}, "Where?\n\n7"),
    ],
)
@pytest.mark.parametrize("names", [("question", "answer"), ("prompt", "completion"), ("instruction", "output")])
def test_what_belongs_to_a_question_is_in_the_prompt(
    columns: dict[str, Any], question: str, names: tuple[str, str]
) -> None:
    assert contents([{names[0]: "Where?", names[1]: "Oslo", **columns}]) == [[question, "Oslo"]]
    turns = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Where?"}]
    assert contents([{"prompt": turns, "completion": "Oslo", **columns}]) == [["Hi", question, "Oslo"]]


def test_choices_are_not_read_if_the_answer_is_an_index_or_their_form_is_unknown() -> None:
    row = {"question": "Where?", "choices": ["Oslo", "Rome"], "answer": 1}
    assert "is a number and none of the choices" in str(contents([row])[0])
    assert contents([row | {"choices": ["1", "2"]}]) == [["Where?\n\nA. 1\nB. 2", "1"]]
    listed = {"instruction": "Where?\nA. Oslo\nB. Rome", "output": "A", "choices": ["Oslo", "Rome"]}
    assert contents([listed]) == [["Where?\nA. Oslo\nB. Rome", "A"]], "a question that lists its choices itself"
    assert contents([row | {"answer": "B", "choices": {"x": 1}}]) == ["wrong type in column choices"]
    left = ReadOptions(metadata=frozenset({"choices"}))
    assert contents([row | {"answer": "Rome"}], left) == [["Where?", "Rome"]]


def test_columns_that_look_like_content_are_noted_and_named_by_the_user_they_are_not() -> None:
    row = {"prompt": "Where?", "completion": "Oslo", "passage": "Oslo lies by the sea.", "domain": "towns"}
    notes = Notes()
    contents([row] * 3, ReadOptions(notes=notes))
    ((text, count),) = notes.losses.items()
    assert "'passage' looks like content" in text and "--columns PART=passage" in text and count == 3
    assert list(notes.columns) == ["passage", "domain"]
    strict = ReadOptions(notes=Notes(strict=True))
    assert contents([row], strict) == [text]
    settled = ReadOptions(notes=Notes(strict=True), metadata=frozenset({"passage"}))
    assert contents([row], settled) == [["Where?", "Oslo"]]
    derived = {"prompt": "Where?", "completion": "Oslo", "text": "### Question: Where? ### Answer: Oslo"}
    assert contents([derived], ReadOptions(notes=Notes(strict=True))) == [["Where?", "Oslo"]]


USER = {"role": "user", "content": "Where?"}
GOOD, BAD = {"role": "assistant", "content": "Oslo"}, {"role": "assistant", "content": "Mars"}
PREFERENCES: list[dict[str, Any]] = [
    {"prompt": "Where?", "chosen": "Oslo", "rejected": "Mars"},
    {"question": "Where?", "chosen": "Oslo", "rejected": "Mars"},
    {"instruction": "Where?", "input": "", "chosen": "Oslo", "rejected": "Mars"},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"prompt": "Where?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {
        "conversations": [{"from": "human", "value": "Where?"}],
        "chosen": {"from": "gpt", "value": "Oslo"},
        "rejected": {"from": "gpt", "value": "Mars"},
    },
    {"messages": [USER, GOOD], "rejected_response": "Mars"},
    {"prompt": "Where?", "chosen": "Oslo"},
]


@pytest.mark.parametrize("row", PREFERENCES)
def test_preference_data_is_refused_or_its_chosen_answer_is_read(row: dict[str, Any]) -> None:
    (reason,) = samples_and_reasons([row])
    assert isinstance(reason, str) and "--take chosen" in reason
    (sample,) = samples_and_reasons([row | {"id": 7}], ReadOptions(take=parse_take("chosen")))
    assert isinstance(sample, Sample), sample
    assert list(sample.messages) == [USER, GOOD]
    rejected = {name: value for name, value in row.items() if name.startswith("rejected")}
    assert sample.metadata == {**rejected, "id": 7}, "the rejected answer is kept as metadata"


def test_only_the_chosen_answer_is_trained_on() -> None:
    start: list[dict[str, Any]] = [USER, BAD, {"role": "user", "content": "Again."}]
    for row in (
        {"prompt": start, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*start, GOOD], "rejected": [*start, BAD]},
    ):
        (sample,) = samples_and_reasons([row], ReadOptions(take=parse_take("chosen")))
        assert isinstance(sample, Sample)
        assert [message.get("train") for message in sample.messages] == [None, False, None, None]


@pytest.mark.parametrize(("good", "bad"), [(True, False), ("True", "false")])
@pytest.mark.parametrize("label", ["label", "kto_tag"])
def test_kto_data_is_refused_or_read_by_its_label(good: Any, bad: Any, label: str) -> None:
    rows = [
        {"prompt": "Where?", "completion": "Oslo", label: good},
        {"prompt": "Where?", "completion": "Mars", label: bad},
    ]
    assert all(isinstance(one, str) and f"--take {label}=true" in one for one in samples_and_reasons(rows))
    taken = contents(rows, ReadOptions(take=parse_take(f"{label}=true")))
    assert taken == [["Where?", "Oslo"], f"not taken: {label} is not true"]


def test_labels_and_flags_that_are_no_preferences_do_not_refuse_a_row() -> None:
    row = {"prompt": "Where?", "completion": "Oslo"}
    for more in ({"label": "geography"}, {"label": 3}, {"rejected": False}, {"rejected": None, "chosen": None}):
        assert contents([row | more]) == [["Where?", "Oslo"]]
    assert contents([{"text": "Oslo", "label": True}]) == [["Oslo"]]
    for wrong in ("label", "label=", "rejected"):
        with pytest.raises(ValueError):
            parse_take(wrong)


def test_images_in_columns_reject_a_row_unless_the_user_leaves_them_out() -> None:
    row = {"prompt": "Where?", "completion": "Oslo", "image": {"bytes": b"x", "path": "a.png"}}
    assert "content that is not text (column 'image'" in str(contents([row])[0])
    assert contents([row], ReadOptions(metadata=frozenset({"image"}))) == [["Where?", "Oslo"]]


def test_the_notes_tell_the_columns_of_rows_that_became_samples_only() -> None:
    rows = [
        {"instruction": "Say a.", "output": "a", "topic": "letters"},
        {"query": "Say b.", "response": "b", "image": "b.png", "licence": "none"},
        {"question": "Say c.", "answer": "c", "source_page": 3, "topic": "letters"},
    ]
    reading = ReadOptions(notes=Notes(), metadata=frozenset({"source_page"}))
    assert [type(one) for one in samples_and_reasons(rows, reading)] == [Sample, str, Sample]
    assert list(reading.notes.columns) == ["topic"]
    assert {part: list(columns) for part, columns in reading.notes.parts["prompt-completion"].items()} == {
        "prompt": ["question"],
        "completion": ["answer"],
    }
