"""What other trainers skip, change or lose is told at the export. The expectations are what the real ones do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from curate.errors import ConfigError, DataError
from curate.samples import Sample
from curate.stages.export.adapted import with_loss, with_turns
from curate.stages.export.differences import Differences, findings_of
from curate.stages.export.json_lines import WatchedRows
from curate.store import Store
from tests.support.exports import export, ingest, train

U, A, S, T = "user", "assistant", "system", "tool"
SQL = "SELECT sample_id FROM samples WHERE pool = '{}' ORDER BY position"


def sample(*roles: str, **last: Any) -> Sample:
    """A conversation of these roles; the last message has further keys."""
    messages = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]
    return Sample([*messages[:-1], messages[-1] | last])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


@pytest.mark.parametrize(
    ("roles", "llama_factory", "ms_swift"),
    [
        ((U, A), None, None),
        ((S, U, A, U, A), None, None),
        ((U, A, T, A), None, None),
        ((U, U, A), "skips", "changes"),
        ((A, U, A), "skips", "changes"),
        ((U, A, U), "skips", "changes"),
        ((U, A, A, U, A), "skips", "changes"),
        ((U, A, S, U, A), "skips", "skips"),
        ((S, S, U, A), "skips", "skips"),
        ((U, A, T, T, A), "skips", None),
        ((U, A, T, U, A), "skips", "skips"),
    ],
)
def test_conversations_that_are_not_pairs_are_found(
    roles: tuple[str, ...], llama_factory: str | None, ms_swift: str | None
) -> None:
    for trainer, expected in (
        ("llama-factory", llama_factory),
        ("ms-swift", ms_swift),
        ("axolotl", None),
        ("trl", None),
    ):
        found = {effect for effect, _ in findings_of(sample(*roles), trainer, "messages")}
        assert found == ({expected} if expected else set()), trainer


@pytest.mark.parametrize(
    ("key", "value", "losers"),
    [
        ("reasoning_content", "because", {"llama-factory", "ms-swift"}),
        ("thinking", "because", {"llama-factory", "ms-swift"}),
        ("train", False, {"llama-factory", "trl"}),
        ("train_detail", [{"begin_offset": 0, "end_offset": 2, "train": False}], {"llama-factory", "trl", "ms-swift"}),
    ],
)
def test_an_export_is_refused_if_its_trainer_would_lose_reasoning_or_flags(
    key: str, value: Any, losers: set[str]
) -> None:
    given = sample(U, A, U, A, **{key: value})
    for trainer in ("llama-factory", "ms-swift", "trl", "axolotl"):
        differences = Differences.of([[given, sample(U, A)]], trainer, "messages")
        if trainer in losers:
            with pytest.raises(DataError, match=rf"1 row of 2 .*{given.sample_id}.*axolotl"):
                differences.check("It", "messages")
        else:
            differences.check("It", "messages")
    assert differences.flags == {key} & {"train", "train_detail"}


DETAIL = [{"begin_offset": 0, "end_offset": 3, "train": False}]


@pytest.mark.parametrize(
    ("keys", "trainer", "row_format", "ways"),
    [
        (
            [{"train": False}, {}],
            "trl",
            "messages",
            "--for trl --format prompt-completion or --for axolotl or --for ms-swift",
        ),
        (
            [{"train": False}, {}],
            "llama-factory",
            "sharegpt",
            "--for trl --format prompt-completion or --for axolotl or --for ms-swift",
        ),
        ([{}, {"train": False}], "trl", "messages", "--for axolotl or --for ms-swift"),
        ([{}, {"train_detail": DETAIL}], "trl", "prompt-completion", "--for axolotl"),
        ([{}, {"reasoning": "because"}], "ms-swift", "messages", "--for trl or --for axolotl"),
        ([{}, {"reasoning": "because"}], "llama-factory", "sharegpt", "--for trl or --for axolotl"),
    ],
)
def test_a_refusal_names_the_exports_that_keep_what_the_trainer_would_lose(
    keys: list[dict[str, Any]], trainer: str, row_format: str, ways: str
) -> None:
    user, first, last = {"role": U, "content": "why"}, {"role": A, "content": "one"}, {"role": A, "content": "two"}
    differences = Differences.of([[Sample([user, first | keys[0], user, last | keys[1]])]], trainer, row_format)
    with pytest.raises(DataError, match=rf"export with {ways}, which keeps"):
        differences.check("It", row_format)


def test_the_way_out_of_a_refusal_exports_a_prompt_whose_answer_is_not_trained_on(store: Store) -> None:
    turns = [{"role": U, "content": "Name a metal."}, {"role": A, "content": "oak"}, {"role": U, "content": "A metal."}]
    row = {"prompt": turns, "completion": [{"role": A, "content": "tin"}]}
    ingest(store, [row], "corrected")
    with pytest.raises(DataError, match="export with --for trl --format prompt-completion or"):
        export(store, sql=SQL.format("corrected"), trainer="trl", pool="corrected", format="messages")
    export(store, sql=SQL.format("corrected"), trainer="trl", pool="corrected", format="prompt-completion")
    assert datasets.load_from_disk("exports/out")[0] == row


def test_the_format_for_trl_is_the_one_whose_masks_are_those_of_curate(store: Store) -> None:
    turns = [{"role": U, "content": "Name a metal."}, {"role": A, "content": "oak"}, {"role": U, "content": "A metal."}]
    corrected = {"prompt": turns, "completion": [{"role": A, "content": "tin"}]}
    short = {"prompt": [turns[0]], "completion": [{"role": A, "content": "lead"}]}
    ingest(store, [corrected, short], "flags")
    export(store, sql=SQL.format("flags"), trainer="trl", pool="flags")
    assert list(datasets.load_from_disk("exports/out")) == [corrected, short]
    assert "trains on the completion only" in Path("exports/out/README.md").read_text()
    ingest(store, [short], "plain")
    export(store, sql=SQL.format("plain"), trainer="trl", pool="plain", name="plain")
    assert datasets.load_from_disk("exports/plain").column_names == ["messages"]
    both = {"messages": [*turns[:1], {"role": A, "content": "one"}, turns[2], {"role": A, "content": "two"}]}
    ingest(store, [corrected, both], "mixed")
    with pytest.raises(DataError, match="reads no flags of messages"):
        export(store, sql=SQL.format("mixed"), trainer="trl", pool="mixed", name="mixed")
    with pytest.raises(ConfigError, match="auto"):
        export(store, sql=SQL.format("plain"), pool="plain", format="auto", name="none")


def test_a_name_that_is_dropped_is_told_and_a_tool_keeps_its_name_in_ms_swift() -> None:
    for trainer in ("llama-factory", "ms-swift"):
        assert list(findings_of(sample(U, A, name="Ann"), trainer, "messages")) == [
            ("changes", "the key name of messages is dropped")
        ]
    tool = sample(U, A, T, name="f")
    tool = Sample([*tool.messages, {"role": A, "content": "done"}])
    assert list(findings_of(tool, "ms-swift", "messages")) == []


def test_trl_trains_on_the_last_answer_of_prompt_and_completion_and_gets_turns(store: Store) -> None:
    assert [effect for effect, _ in findings_of(sample(U, A, U, A), "trl", "prompt-completion")] == ["changes"]
    assert list(findings_of(sample(U, A), "trl", "prompt-completion")) == []
    ingest(store)
    export(store, sql=SQL.format("pool"), trainer="trl", format="prompt-completion")
    row = datasets.load_from_disk("exports/out")[0]
    assert row["prompt"] == [{"role": "user", "content": "q0"}] and row["completion"][0]["content"] == "a0"
    assert with_turns(dict(row)) == dict(row)


def test_rows_that_are_skipped_are_counted_and_named_in_the_log_the_card_and_the_summary(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="curate")
    chats = [sample(U, A), sample(U, U, A), sample(U, A, S, U, A), sample(A, U, A), sample(U, A, U)]
    ids = ingest(store, [{"messages": list(chat.messages)} for chat in chats])
    made = export(store, sql=SQL.format("pool"), trainer="llama-factory")
    card = Path("exports/out/README.md").read_text()
    assert "It reads 5 rows and trains on 1." in card and made.summary["rows the trainer skips"] == 4
    for number, reason in ((1, "do not alternate"), (2, "system message is not the first"), (3, "assistant begins")):
        assert any(reason in line and ids[number] in line for line in card.splitlines())
        assert any(reason in line and ids[number] in line for line in caplog.messages)
    sql = f"SELECT '{ids[1]}' AS sample_id"
    with pytest.raises(DataError, match="LLaMA-Factory skips every row in the format sharegpt"):
        export(store, sql=sql, pool="pool", trainer="llama-factory", name="none")


def test_flags_and_weights_reach_the_trainers_that_read_them(store: Store) -> None:
    row = {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "train": False}], "weight": 0.5}
    assert with_loss(row)["messages"] == [
        {"role": U, "content": "a"},
        {"role": A, "content": "b", "loss": False, "loss_scale": 0.5},
    ]
    from curate.stages.export.trainers import trainer_file

    written = trainer_file("axolotl", "messages", "n", "train.parquet", {"messages", "train", "train_detail"})
    assert written is not None
    (rows,) = yaml.safe_load(written[1])["datasets"]
    assert rows["message_field_training"] == "train" and rows["message_field_training_detail"] == "train_detail"
    assert "# eot_tokens:" in written[1]


# JSON Lines that `datasets` misreads


def watched(rows: list[dict[str, Any]], block: int = 100) -> WatchedRows:
    found = WatchedRows([rows[:1], rows[1:]], block)
    assert [row for batch in found for row in batch] == rows
    return found


def test_late_keys_and_types_and_dates_are_found() -> None:
    early = [{"messages": [{"role": "user", "content": "x" * 60}], "n": 1, "tools": None}] * 2
    assert watched(early * 3).late == [] and watched(early).dates == []
    late = watched([*early, {"messages": [{"role": "user", "content": "x", "name": "Ann"}], "n": 1.5, "tools": "[]"}])
    assert late.late == ["messages[].name", "n", "tools"]
    assert watched([{"day": "2020-01-02"}, {"day": None}, {"day": "2020-01-02T10:00:00Z"}]).dates == ["day"]
    assert watched([{"day": "2020-01-02"}, {"day": "soon"}]).dates == []


def test_the_load_line_of_a_card_works_for_dates_and_says_why(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="curate")
    ingest(store, [{"prompt": f"q{n}", "completion": f"19{45 + n}-09-02"} for n in range(4)])
    export(store, sql=SQL.format("pool"), file_format="jsonl", format="prompt-completion")
    assert "all texts of completion are dates" in caplog.text and "Give --as parquet" in caplog.text
    assert load_as_the_card_says("exports/out")["completion"][:] == [f"19{45 + n}-09-02" for n in range(4)]
    broken = datasets.load_dataset(str(Path("exports/out").resolve()), split="train")
    assert not isinstance(broken[0]["completion"], str), "this is why"


@pytest.mark.parametrize("file_format", ["hf", "parquet", "jsonl"])
def test_the_card_names_the_releases_of_datasets_that_can_read_the_files(store: Store, file_format: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = [{"role": U, "content": "a"}, {"role": A, "content": None, "tool_calls": [call]}]
    ingest(store, [{"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b"}]}], name="plain")
    ingest(store, [{"messages": [*turns, {"role": T, "content": "1"}, {"role": A, "content": "b"}]}], name="calls")
    for pool, release in (("plain", "4.0" if file_format != "jsonl" else None), ("calls", "4.7")):
        export(store, sql=SQL.format(pool), pool=pool, file_format=file_format, format="messages", name=pool)
        card = Path(f"exports/{pool}/README.md").read_text()
        assert (f"`datasets` {release} or newer" in card) if release else ("or newer" not in card)
        assert load_as_the_card_says(f"exports/{pool}")[0]["messages"][-1]["content"] == "b"


def load_as_the_card_says(folder: str) -> Any:
    """Run the code of the card's section on loading."""
    code = Path(folder, "README.md").read_text().split("## Loading")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"FOLDER": str(Path(folder).resolve())}
    exec(code, names)
    return names["data"]


def test_rows_for_other_trainers_are_parquet_by_default_so_that_late_keys_load(store: Store) -> None:
    ingest(store)
    for trainer in ("llama-factory", "axolotl", "ms-swift"):
        export(store, sql=SQL.format("pool"), trainer=trainer, name=trainer)
        assert Path("exports", trainer, "train.parquet").exists()
    info = json.loads(Path("exports/llama-factory/dataset_info.json").read_text())
    assert info["llama-factory"]["file_name"] == "train.parquet"


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_a_folder_that_is_written_again_does_not_load_the_rows_of_before_from_a_cache(
    store: Store, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache").resolve())
    ids = ingest(store)
    for id_, question in ((ids[0], "q0"), (ids[3], "q3")):
        export(store, sql=f"SELECT '{id_}' AS sample_id", pool="pool", file_format=file_format)
        assert load_as_the_card_says("exports/out")["instruction"][:] == [question]


@pytest.mark.parametrize(
    ("trainer", "limit"), [("axolotl", "sequence_len"), ("ms-swift", "--max_length"), ("trl", None)]
)
def test_rows_that_the_run_cut_are_counted_for_trainers_that_drop_them(
    store: Store, trainer: str, limit: str | None
) -> None:
    ids = ingest(store)
    train(store, ids, [[4, 1], [1, 0]], max_length=5)  # every sample has 5 tokens, so each may have been cut
    train(store, ids, [[4, 1], [1, 0]], name="free", max_length=6)
    export(store, run="uds", trainer=trainer)
    export(store, run="free", trainer=trainer, name="free")
    cut, whole = (" ".join(Path("exports", name, "README.md").read_text().split()) for name in ("out", "free"))
    told = f"drops up to 3 rows of 3 if `{limit}` is the 5 tokens of the run, which cut them"
    assert (told in cut) == (limit is not None) and "drops up to" not in whole
