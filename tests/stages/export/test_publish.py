"""Delivery of an export: completely or not at all, and with a card that states how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from curate.errors import DataError
from curate.stages import make
from curate.store import Store
from tests.support.exports import ROWS, export, front_matter, ingest, loaded, train


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


# Delivery


def test_exporting_again_costs_a_copy_and_restores_missing_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.stages.export import stage as stage

    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    artifact = export(store, sql=sql, to="a/b")
    monkeypatch.setattr(stage, "run", lambda *_: pytest.fail("the artifact exists already"))
    Path("a/b/README.md").unlink()
    assert export(store, sql=sql, to="a/b") == artifact and Path("a/b/README.md").exists()
    export(store, sql=sql, to="c")
    assert loaded("a/b") == loaded("c") == ROWS
    assert sorted(path.name for path in Path("a").iterdir()) == ["b"], "nothing half-made is left beside it"


def test_a_folder_with_something_else_in_it_is_left_alone(store: Store) -> None:
    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("ten years")
    with pytest.raises(DataError, match=r"mine holds thesis\.txt.*--overwrite"):
        export(store, sql=sql, to="mine")
    Path("file").write_text("x")
    with pytest.raises(DataError, match="file is a file, not a folder"):
        export(store, sql=sql, to="file")
    export(store, sql=sql, to="other")
    with pytest.raises(DataError, match="other is the export 'out'"):
        export(store, sql=sql, to="other", name="different")
    Path("other/notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"other holds notes\.md"):
        export(store, sql=sql, to="other")
    assert Path("mine/thesis.txt").read_text() == "ten years"
    for folder in ("mine", "other"):
        export(store, sql=sql, to=folder, overwrite=True)
        assert loaded(folder) == ROWS
    assert Path("mine/thesis.txt").read_text() == "ten years" and Path("other/notes.md").read_text() == "mine"
    with pytest.raises(DataError, match="file is a file, not a folder"):
        export(store, sql=sql, to="file", overwrite=True)
    assert Path("file").read_text() == "x"


@pytest.mark.parametrize("to", ["store", "store/sub", "store/artifacts", "."])
def test_the_store_and_the_working_folder_are_never_written_to(
    store: Store, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.stages.export import stage as stage

    ingest(store)
    monkeypatch.setattr(stage, "run", lambda *_: pytest.fail("the destination is checked before the work"))
    before = sorted(Path().rglob("*"))
    for overwrite in (False, True):
        for prefix in ("", f"file://{Path.cwd()}/", f"local://{Path.cwd()}/"):
            with pytest.raises(DataError, match=r"is the store|lies in the store|holds the store|on this machine"):
                export(store, sql="SELECT sample_id FROM samples", to=prefix + to, overwrite=overwrite)
    assert sorted(Path().rglob("*")) == before


def test_a_new_answer_replaces_the_export_of_the_same_name(store: Store) -> None:
    ingest(store)
    for limit in (4, 2):
        export(store, sql=f"SELECT sample_id FROM samples ORDER BY position LIMIT {limit}")
        assert loaded() == ROWS[:limit]


def test_the_hub_is_asked_only_when_told_to_and_gets_the_card(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[tuple[Any, ...]] = []
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo, **options: calls.append(("create", repo, options)))
    monkeypatch.setattr(api, "upload_file", lambda self, **options: calls.append(("file", options["path_in_repo"])))
    monkeypatch.setattr(api, "upload_folder", lambda self, **options: calls.append(("folder", options["repo_id"])))
    monkeypatch.setattr(
        datasets.Dataset, "push_to_hub", lambda self, repo, **options: calls.append(("push", repo, len(self)))
    )
    ingest(store)
    sql = "SELECT sample_id FROM samples"
    export(store, sql=sql)
    assert calls == []
    export(store, sql=sql, push_to_hub="me/out")
    created = ("create", "me/out", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert calls == [created, ("file", "README.md"), ("push", "me/out", 6)]
    calls.clear()
    export(store, sql=sql, push_to_hub="me/out", file_format="jsonl")
    assert calls == [created, ("folder", "me/out")]

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no token\nand more")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(DataError, match=r"Cannot upload to me/out on the Hugging Face Hub: no token\. Check"):
        export(store, sql=sql, push_to_hub="me/out")


# The card


def test_the_card_of_a_run_says_how_it_came_about(store: Store) -> None:
    ids = ingest(store, licence="cc-by-nc-4.0")
    made_by = train(store, ids, [[4, 1], [1, 0]])
    export(store, run="uds")
    values = front_matter()
    assert values["license"] == "cc-by-nc-4.0" and values["size_categories"] == ["n<1K"]
    assert values["tags"] == ["curate", "data-selection", "uds"]
    text = Path("exports/out/README.md").read_text()
    pool = store.get("pool")
    for said in (
        made_by.fingerprint,
        pool.fingerprint,
        *pool.inputs.values(),
        "me/tiny",
        "| seed | 7 |",
        "diversity_weight",
    ):
        assert said in text
    assert "| pool | 3 | 100.0% | cc-by-nc-4.0 |" in text
    assert "3 samples of the pool `pool` (6 rows): those that the run `uds` kept" in text


def test_the_configs_in_the_card_are_valid_and_hold_no_path_of_this_machine(store: Store, tmp_path: Path) -> None:
    from curate.stages import stage_of

    ingest(store, [{"text": "a"}], name="first")
    make(store, "ingest", data=[f"web={tmp_path}/first.jsonl"], name="pool")
    sql = "SELECT sample_id FROM samples WHERE position < 10"
    export(store, sql=sql, pool="pool", to=str(tmp_path / "out"))
    text = (tmp_path / "out/README.md").read_text()
    assert str(tmp_path) not in text and sql in text
    blocks = [yaml.safe_load(part.split("```")[0]) for part in text.split("```yaml\n")[1:]]
    assert [block["name"] for block in blocks] == ["pool", "out"]
    for stage, block in zip(("ingest", "export"), blocks, strict=True):
        stage_of(stage).config(**block)
    assert blocks[0]["data"] == ["web=first.jsonl"]


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        (None, {"license": "unknown"}),
        ("a=mit", {"license": "unknown"}),
        ("a=mit,b=apache-2.0", {"license": ["apache-2.0", "mit"]}),
        ("My own, ask me", {"license": "other", "license_name": "My own, ask me"}),
    ],
)
def test_licences_of_all_sources_are_in_the_front_matter(
    store: Store, licence: str | None, said: dict[str, Any]
) -> None:
    for name in "ab":
        Path(f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    make(store, "ingest", data=["a.jsonl", "b.jsonl"], licence=licence, name="pool")
    export(store, sql="SELECT sample_id FROM samples", file_format="parquet")
    values = front_matter()
    assert {key: values[key] for key in said} == said
    assert values["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
