"""Exports for Axolotl and ms-swift, and the law of all formats: what a format can hold comes back as it went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import ConfigError, DataError
from curate.formats import detect, to_rows, to_sample
from curate.samples import Sample
from curate.stages.export.trainers import TRAINER_FORMATS
from curate.store import Store
from tests.support.exports import CALL, CHAT, ROWS, export, ingest

SQL = "SELECT sample_id, position AS score FROM samples WHERE pool = '{}' ORDER BY position DESC"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    ingest(store)
    return store


def read_like_axolotl(config: dict[str, Any], folder: Path) -> list[list[tuple[str, str]]]:
    """The conversations that a config leads to, by its keys, as Axolotl's chat_template strategy goes through a row."""
    (rows,) = config["datasets"]
    file = rows["path"].replace("FOLDER", str(folder))
    data = datasets.load_dataset(rows["ds_type"], data_files=file, split=rows["split"])
    role, content = (rows["message_property_mappings"][key] for key in ("role", "content"))
    return [[(turn[role], turn[content]) for turn in row[rows["field_messages"]]] for row in data]


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_axolotl_is_led_to_the_rows_in_their_order(store: Store, file_format: str) -> None:
    export(store, sql=SQL.format("pool"), trainer="axolotl", columns=["score"], file_format=file_format)
    folder = Path("exports/out")
    config = yaml.safe_load((folder / "axolotl.yaml").read_text())
    expected = [[("user", row["instruction"]), ("assistant", row["output"])] for row in reversed(ROWS)]
    assert read_like_axolotl(config, folder) == expected
    assert config["curriculum_sampling"] is True and config["shuffle_merged_datasets"] is False
    assert config["datasets"][0]["type"] == "chat_template" and "field_tools" not in config["datasets"][0]
    text = (folder / "README.md").read_text()
    assert "## Training in this order with Axolotl" in text and "curriculum_sampling: true" in text
    assert "Axolotl ignores a column `weight`" in text


@pytest.mark.parametrize(("form", "columns"), [(None, {"messages"}), ("alpaca", {"instruction", "input", "output"})])
def test_ms_swift_reads_the_file_that_the_card_names(store: Store, form: str | None, columns: set[str]) -> None:
    export(store, sql=SQL.format("pool"), trainer="ms-swift", columns=["score"], **({"format": form} if form else {}))
    folder = Path("exports/out")
    text = (folder / "README.md").read_text()
    (file,) = {line.split("FOLDER/")[1].split()[0] for line in text.splitlines() if "--dataset FOLDER/" in line}
    rows = datasets.load_dataset("parquet", data_files=str(folder / file), split="train").to_list()
    assert [set(row) for row in rows] == [columns | {"score"}] * len(ROWS)
    assert [row["score"] for row in rows] == list(range(len(ROWS)))[::-1]
    assert "--dataset_shuffle false --train_dataloader_shuffle false" in text and "`loss_scale`" in text


def test_tools_go_to_axolotl_and_ms_swift_and_are_an_error_where_they_would_be_lost(store: Store) -> None:
    called = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ingest(store, [{"messages": [*called, CHAT[1]], "tools": [tool]}], name="offered")
    ingest(store, [{"messages": [*called, CHAT[1]]}], name="called")
    export(store, sql=SQL.format("offered"), pool="offered", trainer="axolotl")
    (rows,) = yaml.safe_load(Path("exports/out/axolotl.yaml").read_text())["datasets"]
    (row,) = datasets.load_dataset("parquet", data_files="exports/out/train.parquet", split="train")
    assert row[rows["field_tools"]] == [tool] and row["messages"][1]["tool_calls"] == [CALL]
    for pool in ("offered", "called"):
        export(store, sql=SQL.format(pool), pool=pool, trainer="ms-swift", file_format="jsonl", name=f"swift-{pool}")
        (row,) = (json.loads(line) for line in Path(f"exports/swift-{pool}/train.jsonl").read_text().splitlines())
        assert row["messages"][1]["tool_calls"] == [CALL] and row.get("tools") == (
            [tool] if pool == "offered" else None
        )
        with pytest.raises(DataError, match="tools in the format sharegpt only"):
            export(store, sql=SQL.format(pool), pool=pool, trainer="llama-factory", format="messages", name="no")


def test_every_trainer_reads_formats_that_its_card_is_written_for(store: Store) -> None:
    for trainer, reader in TRAINER_FORMATS.items():
        for form in reader.formats:
            export(store, sql=SQL.format("pool"), trainer=trainer, format=form, name=f"{trainer}-{form}")
            text = Path(f"exports/{trainer}-{form}/README.md").read_text()
            assert f"## Training in this order with {reader.title}" in text and "{" + "name}" not in text
    for trainer, file_format in (("ms-swift", "hf"), ("axolotl", "hf")):
        with pytest.raises(ConfigError, match=f"does not read --as {file_format}"):
            export(store, sql=SQL.format("pool"), trainer=trainer, file_format=file_format, name="no")


# The law of round trips

characters = st.characters(codec="utf-8")
texts = st.text(characters, max_size=12) | st.sampled_from(
    ["", " ", "\n\n", "\x00", "\ufeff", "=1+1", '{"a": 1}', "é 漢 🤖"]
)
spoken = texts.filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> Sample:
    """With a system message or not, one turn or several, any text that can be trained on, empty where it may be."""
    messages = [{"role": "system", "content": draw(spoken)}] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 4))):
        asked = draw(spoken if turn == 0 else texts)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": draw(spoken)}]
    return Sample(messages)


def holds(name: str, samples: list[Sample]) -> bool:
    """Return whether a format can hold all of it: Alpaca is one question and its answer, after a system message.

    Readers of prompt and completion train on the completion alone, so a prompt holds no answer.
    """
    roles = [[message["role"] for message in sample.messages if message["role"] != "system"] for sample in samples]
    if name == "prompt-completion":
        return all("assistant" not in turns[:-1] for turns in roles)
    return name != "alpaca" or all(turns == ["user", "assistant"] for turns in roles)


@pytest.mark.parametrize("name", ["messages", "prompt-completion", "alpaca", "sharegpt"])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(samples=st.lists(conversations(), min_size=1, max_size=3))
def test_what_a_format_can_hold_comes_back_from_the_file(name: str, samples: list[Sample]) -> None:
    try:
        rows = to_rows(samples, name)
    except DataError:
        assert not holds(name, samples)
        return
    assert holds(name, samples)
    again = [json.loads(line) for line in (json.dumps(row, ensure_ascii=False) for row in rows)]
    layout = detect(again, {}, "file")
    assert layout.format == name
    back = [to_sample(row, layout) for row in again]
    assert [[dict(m) for m in sample.messages] for sample in back] == [[dict(m) for m in s.messages] for s in samples]
    assert [sample.sample_id for sample in back] == [sample.sample_id for sample in samples]
