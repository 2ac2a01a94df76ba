"""An artifact is identified by what it is made from, is made once, and survives being stopped at any point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Annotated

import pyarrow as pa
import pytest
from pydantic import Field

from curate.config import EXTERNAL, NOT_HASHED, Config, Ref
from curate.errors import ArtifactNotFound, StoreError
from curate.store import Draft, Store
from curate.store.artifacts.files import digest_path, fingerprint_of


class Toy(Config):
    rows: int = Field(2, description="Rows.")
    parent: Ref | None = Field(None, description="Parent.")
    model: Annotated[str, EXTERNAL] = Field("m", description="Model.")
    workers: Annotated[int, NOT_HASHED] = Field(1, description="Workers.")


def fill(draft: Draft) -> None:
    draft.write(0, pa.table({"x": [1, 2]}))
    draft.rows = 2


def never(draft: Draft) -> None:
    raise AssertionError("made again")


def test_a_fingerprint_is_the_same_on_every_machine_and_for_ever() -> None:
    found = fingerprint_of("train", {"seed": 1, "name": "ü", "rate": 0.1, "list": [1, None]}, {"pool": "c1:00"})
    assert found == "c1:38064f18f675760cf6a19f578860f048"
    assert found == fingerprint_of("train", {"list": [1, None], "rate": 0.1, "name": "ü", "seed": 1}, {"pool": "c1:00"})


def test_name_inputs_and_fields_that_are_not_hashed_are_no_part_of_the_identity() -> None:
    plain = Toy(name="a").identity()
    assert plain == {"rows": 2}
    assert Toy(name="b", parent="p", model="/elsewhere", workers=9).identity() == plain
    assert Toy(name="a", rows=3).identity() != plain
    assert Toy.fields_with(EXTERNAL) == ["model"]
    assert Toy(name="b", parent="p").refs() == {"parent": "p"}


def test_what_is_made_is_not_made_again_under_any_name(store: Store) -> None:
    first = store.make("toy", fill, Toy(name="a"), {"parent": "c1:1"})
    again = store.make("toy", never, Toy(name="b", workers=4), {"parent": "c1:1"})
    assert again.path == first.path and store.get("b").fingerprint == store.get("a").fingerprint
    assert store.make("toy", fill, Toy(name="c"), {"parent": "c1:2"}).path != first.path


def test_names_that_differ_only_in_case_are_an_error_before_anything_is_made(store: Store) -> None:
    store.make("toy", fill, Toy(name="Run"))
    with pytest.raises(StoreError, match=r"'run' differs from the existing name 'Run' in .* the same file"):
        store.make("toy", never, Toy(name="run", rows=3))
    with pytest.raises(StoreError, match="choose another name"), store.draft("toy", Toy(name="RUN", rows=3)):
        raise AssertionError("begun")
    assert len(store.artifacts()) == 1 and not store.drafts()


def test_a_name_moves_to_the_last_artifact_and_the_earlier_one_keeps_a_name_of_its_own(store: Store) -> None:
    old = store.make("toy", fill, Toy(name="a", rows=2))
    new = store.make("toy", fill, Toy(name="a", rows=3))
    assert store.get("a").fingerprint == new.fingerprint
    assert store.display_names() == {new.fingerprint: "a", old.fingerprint: f"a@{old.fingerprint[3:11]}"}
    store.make("toy", never, Toy(name="a", rows=2))
    assert store.get("a").fingerprint == old.fingerprint


def test_unfinished_artifacts_of_one_name_have_different_display_names(store: Store) -> None:
    for rows in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            store.make("toy", interrupt, Toy(name="a", rows=rows))
    assert len(set(store.display_names().values())) == 2
    assert all(label.startswith("a@") for label in store.display_names().values())


def interrupt(draft: Draft) -> None:
    raise KeyboardInterrupt


def test_killed_between_shards_only_the_missing_ones_are_written(store: Store) -> None:
    written: list[int] = []

    def three(draft: Draft, stop_at: int | None) -> None:
        for shard in draft.pending(3):
            if shard == stop_at:
                raise KeyboardInterrupt
            draft.write(shard, pa.table({"x": [shard]}))
            written.append(shard)

    with pytest.raises(KeyboardInterrupt):
        store.make("toy", lambda draft: three(draft, 1), Toy(name="a"))
    assert not store.has("a") and store.artifacts() == [] and [d.name for d in store.drafts()] == ["a"]
    made = store.make("toy", lambda draft: three(draft, None), Toy(name="a"))
    assert written == [0, 1, 2]
    assert made.table()["x"].to_pylist() == [0, 1, 2] and store.drafts() == []


def test_a_half_written_shard_is_never_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import curate.store.artifacts.parquet as module

    def dies(table: pa.Table, file: IO[bytes], **_: object) -> None:
        file.write(b"PAR1 half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.pq, "write_table", dies)
        store.make("toy", fill, Toy(name="a"))
    assert store.drafts()[0].shards() == []
    assert store.make("toy", fill, Toy(name="a")).table()["x"].to_pylist() == [1, 2]


def test_a_missing_artifact_says_how_to_make_it(store: Store) -> None:
    store.make("toy", fill, Toy(name="pool"))
    with pytest.raises(ArtifactNotFound, match=r"'poll'.*Did you mean 'pool'.*curate ingest --name poll"):
        store.get("poll", "ingest")
    with pytest.raises(ArtifactNotFound, match="made by toy, not by ingest"):
        store.get("pool", "ingest")


def test_a_store_of_a_newer_schema_is_an_error(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    (store.root / "store.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(StoreError, match="newer curate"):
        Store(store.root)


MAKER = """
import sys, time, pyarrow as pa
from pathlib import Path
from curate.config import Config
from curate.store import Store
class Toy(Config):
    rows: int = 2
def fill(draft):
    print("inside", flush=True)
    sys.stdin.readline()
    draft.write(0, pa.table({"x": [7]}))
Store(sys.argv[1]).make("shared", fill, Toy(name="a"))
"""


def test_two_processes_do_not_make_the_same_artifact(store: Store) -> None:
    class Same(Config):
        rows: int = 2

    command = [sys.executable, "-c", MAKER, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "inside\n"
        with pytest.raises(StoreError, match=r"Another process \(\d+ on .*\) is making 'a' \(shared\)"):
            store.make("shared", never, Same(name="a"))
        assert store.is_being_made(store.drafts()[0])
        other.stdin.write("\n")
        other.stdin.close()
    assert other.returncode == 0
    assert store.make("shared", never, Same(name="a")).table()["x"].to_pylist() == [7]


def test_a_process_that_was_killed_holds_nothing(store: Store) -> None:
    class Same(Config):
        rows: int = 2

    command = [sys.executable, "-c", MAKER, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "inside\n"
        other.kill()
    assert not store.is_being_made(store.drafts()[0])
    assert store.make("shared", fill, Same(name="a")).rows == 2


def test_what_another_process_finished_while_we_waited_for_the_lock_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes the artifact after this one has looked for it and before it holds the lock."""
    import curate.store.store as module

    class Late(module.DraftLock):
        def __enter__(self) -> module.DraftLock:
            with monkeypatch.context() as patch:
                patch.setattr(module, "DraftLock", real)
                Store(store.root).make("toy", fill, Toy(name="other"))
            return super().__enter__()

    real = module.DraftLock
    monkeypatch.setattr(module, "DraftLock", Late)
    assert store.make("toy", never, Toy(name="mine")).rows == 2


def test_a_digest_changes_with_content_and_names_but_not_with_place_or_hidden_files(tmp_path: Path) -> None:
    for root in ("a", "b"):
        (tmp_path / root / "sub").mkdir(parents=True)
        (tmp_path / root / "sub" / "x").write_text("1")
    assert digest_path(tmp_path / "a") == digest_path(tmp_path / "b")
    (tmp_path / "b" / ".hidden").write_text("2")
    assert digest_path(tmp_path / "a") == digest_path(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x").rename(tmp_path / "b" / "sub" / "y")
    assert digest_path(tmp_path / "a") != digest_path(tmp_path / "b")
    (tmp_path / "a" / "sub" / "x").write_text("2")
    assert digest_path(tmp_path / "a" / "sub" / "x") != digest_path(tmp_path / "b" / "sub" / "y")
