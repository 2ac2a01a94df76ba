"""Folders are read split by split, links are followed, and files of every common form are read or named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from curate.errors import DataError
from curate.formats import Notes, read_location
from curate.formats.locations import label_and_location
from curate.store.artifacts.files import digest_path


def texts(path: Path, split: str = "train", notes: Notes | None = None) -> list[Any]:
    return [row.reason or row.values["text"] for row in read_location(str(path), split=split, notes=notes) if row]  # type: ignore[index]


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps({"text": name}) + "\n")


FOLDERS = [
    (["train.jsonl", "test.jsonl", "validation.jsonl"], ["train.jsonl"], ["test.jsonl"], ["validation.jsonl"]),
    (
        ["data/train-00000-of-00002.json", "data/train-00001-of-00002.json", "data/test-00000-of-00001.json"],
        ["data/train-00000-of-00002.json", "data/train-00001-of-00002.json"],
        ["data/test-00000-of-00001.json"],
        None,
    ),
    (
        ["split=train/part-0.json", "split=test/part-0.json"],
        ["split=train/part-0.json"],
        ["split=test/part-0.json"],
        None,
    ),
    (["train/a.json", "dev/a.json"], ["train/a.json"], None, ["dev/a.json"]),
    (
        ["gsm_train.ndjson", "gsm_test.jsonlines", "more.json"],
        ["gsm_train.ndjson", "more.json"],
        ["gsm_test.jsonlines"],
        None,
    ),
    (["train.json", "a/other.json", "test.json"], ["a/other.json", "train.json"], ["test.json"], None),
    (["latest.json", "contest.json"], ["contest.json", "latest.json"], None, None),
]


@pytest.mark.parametrize(("names", "train", "test", "validation"), FOLDERS)
def test_a_split_of_a_folder_is_the_files_that_it_names(
    tmp_path: Path, names: list[str], train: list[str], test: list[str] | None, validation: list[str] | None
) -> None:
    fill(tmp_path, *names)
    for split, expected in (("train", train), ("test", test), ("validation", validation)):
        if expected is None:
            with pytest.raises(DataError, match=f"no split '{split}'"):
                texts(tmp_path, split)
            continue
        notes = Notes()
        assert texts(tmp_path, split, notes) == expected
        assert bool(notes.files) == (len(expected) < len(names))
    assert sorted(texts(tmp_path, "all")) == sorted(names)


def test_splits_with_names_of_their_own_are_asked_for_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "train_sft-00000-of-00001.json", "test_sft-00000-of-00001.json")
    with pytest.raises(DataError, match=r"it has test_sft \(1 file\), train_sft \(1 file\)"):
        texts(tmp_path)
    assert texts(tmp_path, "train_sft") == ["train_sft-00000-of-00001.json"]
    assert texts(tmp_path / "test_sft-00000-of-00001.json") == ["test_sft-00000-of-00001.json"], "a file by its name"


def test_an_object_with_a_list_for_each_split_is_read_by_split(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [{"text": "a"}], "dev": [{"text": "b"}]}))
    assert texts(path) == ["a"] and texts(path, "validation") == ["b"] and texts(path, "all") == ["a", "b"]
    with pytest.raises(DataError, match="train, dev"):
        texts(path, "test")


def test_the_cache_of_the_hub_is_read_at_its_current_snapshot(tmp_path: Path) -> None:
    fill(tmp_path, "snapshots/aaa/data/train.json", "snapshots/bbb/data/train.json", "snapshots/bbb/data/test.json")
    (tmp_path / "refs").mkdir()
    (tmp_path / "blobs").mkdir()
    with pytest.raises(DataError, match="several snapshots"):
        texts(tmp_path)
    (tmp_path / "refs/main").write_text("bbb")
    notes = Notes()
    assert texts(tmp_path, notes=notes) == ["snapshots/bbb/data/train.json"]
    assert [note.partition("snapshots")[2] for note in notes.files[:1]] == ["/aaa: not the current snapshot"]


def test_links_to_folders_are_followed_once_and_count_in_the_fingerprint(tmp_path: Path) -> None:
    fill(tmp_path, "d/a/one.json", "e/two.json")
    os.symlink(tmp_path / "e", tmp_path / "d/b")
    os.symlink(tmp_path / "d", tmp_path / "d/a/loop")
    notes = Notes()
    assert texts(tmp_path / "d", notes=notes) == ["d/a/one.json", "e/two.json"]
    assert len(notes.files) == 1 and "a link to a folder that is read already" in notes.files[0]
    before = digest_path(tmp_path / "d")
    fill(tmp_path, "e/three.json")
    assert digest_path(tmp_path / "d") != before


def test_files_that_are_passed_over_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.json", "b.txt", "c.lz4", "README.md", ".hidden.txt")
    notes = Notes()
    assert texts(tmp_path, notes=notes) == ["a.json"]
    assert [note.partition(" in ")[0] for note in notes.files] == ["b.txt, c.lz4"]


def test_a_path_with_an_equals_sign_is_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "in/split=train/a.json", "x.json")
    monkeypatch.chdir(tmp_path)
    for path in ("in/split=train/a.json", f"{tmp_path}/in/split=train", "in/split=train"):
        assert label_and_location(path) == (None, path)
    assert label_and_location("web=x.json") == ("web", "x.json")
    assert label_and_location("web=in/split=train") == ("web", "in/split=train")
    monkeypatch.chdir(tmp_path / "in")
    assert label_and_location("split=train/a.json") == (None, "split=train/a.json")


ROWS = [{"text": "a"}, {"text": "b [1, 2]"}, {"text": "c"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonlines", "a.json"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        "\n".join(json.dumps(row, indent=4) for row in ROWS),
        "\ufeff" + "\n\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n".join(map(json.dumps, ROWS)),
    ],
)
def test_arrays_and_printed_objects_are_read_under_any_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert texts(tmp_path / name) == ["a", "b [1, 2]", "c"]


def test_a_broken_line_at_the_start_of_jsonl_costs_one_row(tmp_path: Path) -> None:
    for first in ('{"text": "x', "{", "[{", '{"text": "x",'):
        (tmp_path / "a.jsonl").write_text("\n".join([first, *map(json.dumps, ROWS)]))
        assert texts(tmp_path / "a.jsonl") == ["not JSON", "a", "b [1, 2]", "c"]
    (tmp_path / "a.jsonl").write_text('[\n{"text": "a", "x": 1, "x": 2},\n{"text": "b"}\n]')
    assert texts(tmp_path / "a.jsonl") == ["a key comes twice", "b"]


def test_semicolons_separate_columns_if_the_first_line_has_no_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufefftext;n\n"a; b";1\nc, d;2\n')
    assert texts(tmp_path / "a.csv") == ["a; b", "c, d"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_an_error_that_says_how_to_save_the_file(tmp_path: Path, name: str, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / name).write_bytes((mark + '{"text": "a"}\n').encode(encoding))
    with pytest.raises(DataError, match=rf"{name} is in UTF-16. Save it as UTF-8"):
        texts(tmp_path / name)
