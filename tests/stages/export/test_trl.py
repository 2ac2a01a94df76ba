"""Exports for other trainers: TRL trains on one in its order, LLaMA-Factory's entry leads to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from curate.errors import ConfigError, DataError
from curate.stages import make
from curate.store import Store
from tests.support.exports import CALL, CHAT, ROWS, export, ingest, train

ORDER = "SELECT sample_id, position AS score, 1 + position AS w FROM samples ORDER BY position % 2, position DESC"
POSITIONS = [4, 2, 0, 5, 3, 1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A pool of six questions, a run over it, and a curriculum that has them in the order of `POSITIONS`."""
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    ids = ingest(store)
    train(store, ids, [[4, 1], [1, 0]])
    Path("order.sql").write_text(ORDER)
    make(store, "curriculum", name="c", runs=["uds"], order="sql:order.sql", weights="w")
    return store


def test_an_exported_subset_trains_in_trl_in_its_order(
    store: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    export(store, subset="c", trainer="trl", columns=["rank", "weight"])
    data = datasets.load_from_disk("exports/out")
    assert data.column_names == ["messages", "rank", "weight"] and list(data["rank"]) == list(range(6))
    assert list(data["weight"]) == [1 + n for n in POSITIONS]
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    arguments = SFTConfig(
        output_dir="trl", train_sampling_strategy="sequential", per_device_train_batch_size=2, max_steps=2,
        use_cpu=True, report_to="none", disable_tqdm=True, max_length=64, bf16=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    seen: list[list[int]] = []
    step = trainer.training_step

    def watching(model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        seen.extend(inputs["input_ids"].tolist())
        return step(model, inputs, *args)

    monkeypatch.setattr(trainer, "training_step", watching)
    trainer.train()
    assert trainer.state.global_step == 2
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in seen]
    trained = [[n for n in range(6) if f"q{n}" in text and f"a{n}" in text] for text in texts]
    assert trained == [[n] for n in POSITIONS[:4]]


def test_the_card_says_how_trl_keeps_the_order(store: Store) -> None:
    from trl import SFTConfig

    export(store, subset="c", trainer="trl")
    text = Path("exports/out/README.md").read_text()
    assert "## Training in this order with TRL" in text and 'train_sampling_strategy="sequential"' in text
    assert "assistant_only_loss=True" in text
    assert {"train_sampling_strategy", "shuffle_dataset", "assistant_only_loss", "max_length"} <= set(
        SFTConfig.__dataclass_fields__
    )
    assert "| order | sql:order.sql |" in text
    export(store, subset="c", name="plain")
    assert "## Training in" not in Path("exports/plain/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "formatting", "columns"),
    [
        ({}, "sharegpt", {"messages": "conversations"}),
        ({"format": "messages"}, "sharegpt", {"messages": "messages"}),
        ({"format": "alpaca", "file_format": "parquet"}, "alpaca", {"prompt": "instruction", "query": "input"}),
    ],
)
def test_the_entry_for_llama_factory_leads_to_the_file_and_its_columns(
    store: Store, options: dict[str, str], formatting: str, columns: dict[str, str]
) -> None:
    export(store, subset="c", trainer="llama-factory", columns=["rank", "weight"], **options)
    folder = Path("exports/out")
    entry = json.loads((folder / "dataset_info.json").read_text())["out"]
    assert entry["formatting"] == formatting and columns.items() <= entry["columns"].items()
    file = folder / entry["file_name"]
    rows = datasets.load_dataset(file.suffix[1:].replace("jsonl", "json"), data_files=str(file), split="train")
    assert {*entry["columns"].values(), "rank", "weight"} == set(rows.column_names)
    assert list(rows["rank"]) == list(range(6))
    assert [aligned(row, entry) for row in rows] == [
        [("user", ROWS[n]["instruction"]), ("assistant", ROWS[n]["output"])] for n in POSITIONS
    ]
    assert len(datasets.load_dataset(str(folder), split="train")) == 6, (
        "dataset_info.json does not disturb other readers"
    )
    text = (folder / "README.md").read_text()
    assert "dataset: out\n" in text and "disable_shuffling: true" in text


def aligned(row: dict[str, Any], entry: dict[str, Any]) -> list[tuple[str, str]]:
    """A row as LLaMA-Factory reads it: by the names in the entry, with its own defaults for missing ones."""
    columns, tags = entry["columns"], entry.get("tags", {})
    if entry["formatting"] == "alpaca":
        asked = "\n".join(part for part in (row[columns["prompt"]], row[columns["query"]]) if part)
        return [("user", asked), ("assistant", row[columns["response"]])]
    role, content = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    roles = {tags.get("user_tag", "human"): "user", tags.get("assistant_tag", "gpt"): "assistant"}
    return [(roles[turn[role]], turn[content]) for turn in row[columns["messages"]]]


def test_tools_and_system_messages_have_their_columns(store: Store) -> None:
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    turns = {"human": "Hi", "function_call": json.dumps(CALL["function"]), "observation": "2", "gpt": "Two"}
    spoken = [{"from": speaker, "value": text} for speaker, text in turns.items()]
    ingest(store, [{"conversations": spoken, "tools": tools}], name="calls")
    ingest(store, [{"messages": [{"role": "system", "content": "Be brief."}, *CHAT]}], name="system")
    sql = "SELECT sample_id FROM samples WHERE pool = '{}'"
    export(store, sql=sql.format("calls"), pool="calls", trainer="llama-factory")
    entry = json.loads(Path("exports/out/dataset_info.json").read_text())["out"]
    assert entry["columns"] == {"messages": "conversations", "tools": "tools"}
    with pytest.raises(DataError, match="tools in the format sharegpt only"):
        export(store, sql=sql.format("calls"), pool="calls", trainer="llama-factory", format="messages")
    export(store, sql=sql.format("system"), pool="system", trainer="llama-factory", format="alpaca", name="system-out")
    entry = json.loads(Path("exports/system-out/dataset_info.json").read_text())["system-out"]
    assert entry["columns"]["system"] == "system"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trainer": "llama-factory", "file_format": "hf"},
            "LLaMA-Factory does not read --as hf: give parquet or jsonl",
        ),
        (
            {"trainer": "llama-factory", "format": "original"},
            "does not read --format original: give sharegpt or alpaca",
        ),
        (
            {"trainer": "trl", "format": "alpaca"},
            "TRL does not read --format alpaca: give messages or prompt-completion",
        ),
    ],
)
def test_a_format_that_the_trainer_cannot_read_is_an_error(store: Store, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(store, subset="c", **options)


def test_the_formats_of_a_trainer_are_in_the_fingerprint(store: Store) -> None:
    made = export(store, subset="c", trainer="llama-factory")
    assert (made.config["format"], made.config["file_format"]) == ("sharegpt", "parquet")
    values = {key: value for key, value in made.config.items() if value is not None}
    assert make(store, "export", **values).fingerprint == made.fingerprint
