"""What killed processes leave behind is found and removed; what a living process uses stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from curate.errors import ArtifactNotFound
from curate.store import Artifact, Draft, Store
from curate.store.artifacts.files import HOST, is_abandoned, temporary
from curate.store.maintenance.gc import find_leftovers, remove
from curate.store.maintenance.verify import find_defects
from tests.support.toy_store import Toy, fill, stopped


@pytest.fixture
def made(store: Store) -> Artifact:
    return store.make("toy", fill, Toy(name="a"))


def test_a_name_of_a_deleted_artifact_is_found_and_removed(store: Store, made: Artifact) -> None:
    shutil.rmtree(made.path)
    with pytest.raises(ArtifactNotFound, match="is gone, but a name in"):
        store.get("a")
    found = find_leftovers(store)
    assert {each.path.name for each in found} == {"a.json", "catalog.duckdb"}
    assert all(remove(store, each) for each in found)
    assert find_leftovers(store) == [] and list(find_defects(store)) == []
    assert store.query("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 0}]


def test_an_artifact_deleted_by_hand_and_made_again_has_only_the_new_records(store: Store, made: Artifact) -> None:
    def otherwise(draft: Draft) -> None:
        draft.add("samples", pa.table({"sample_id": ["other"], "position": [0]}))

    shutil.rmtree(made.path)
    store.make("toy", otherwise, Toy(name="a"))
    assert store.query("SELECT sample_id FROM samples").to_pylist() == [{"sample_id": "other"}]


def test_a_draft_without_a_process_is_removed_with_all_its_files_unless_drafts_are_kept(store: Store) -> None:
    store.make("toy", fill, Toy(name="a"))
    before = sorted(path for path in store.root.rglob("*") if path.is_file())
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    assert find_leftovers(store, drafts=False) == [], "the half-written file is of this process, which lives"
    (found,) = find_leftovers(store)
    assert found.bytes > 0 and "'b' (toy), unfinished" in found.what
    assert remove(store, found)
    assert sorted(path for path in store.root.rglob("*") if path.is_file()) == before


def test_a_draft_that_is_being_made_is_no_leftover_and_is_not_removed(store: Store) -> None:
    def look(draft: Draft) -> None:
        held = [each for each in find_leftovers(store) if each.path == draft.path]
        assert held == []

    store.make("toy", look, Toy(name="a"))
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    (found,) = find_leftovers(store)

    def removed(draft: Draft) -> None:
        assert not remove(store, found) and draft.path.exists()

    store.make("toy", removed, Toy(name="b", seed=1))
    assert not remove(store, found), "by now it is an artifact"
    assert store.get("b").made_at


def test_a_draft_that_was_killed_before_it_was_described_is_removed(store: Store, made: Artifact) -> None:
    begun = store.root / "artifacts/toy/0123456789abcdef"
    begun.mkdir()
    (begun / "draft.lock").write_text("x")
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (begun / f".draft.json.{HOST}.{ended.stdout.strip()}.tmp").write_text("{")
    (found,) = find_leftovers(store)
    assert found.path == begun and remove(store, found) and find_leftovers(store) == []
    assert not begun.exists()


def test_a_half_written_file_belongs_to_the_process_in_its_name(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for name, gone in ((f".x.{HOST}.{ended.stdout.strip()}.tmp", True), (temporary(tmp_path / "x").name, False)):
        (tmp_path / name).touch()
        assert is_abandoned(tmp_path / name) is gone
    elsewhere = tmp_path / ".x.another-host.1.tmp"
    elsewhere.touch()
    assert not is_abandoned(elsewhere)
    os.utime(elsewhere, (0, 0))
    assert is_abandoned(elsewhere) and not is_abandoned(tmp_path / ".gitkeep")


def test_a_link_among_leftovers_is_unlinked_and_the_rest_is_removed(store: Store, tmp_path: Path) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    (outside := tmp_path / "outside").mkdir()
    (outside / "kept").write_text("kept")
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = f"{HOST}.{ended.stdout.strip()}.tmp"
    (store.root / f".a.{left}").symlink_to(outside)
    (made.path / f".b.{left}").symlink_to(outside / "kept")
    (made.path / f".c.{left}").symlink_to(tmp_path / "nowhere")
    (made.path / ".spill-1").symlink_to(outside)
    (store.root / f".z.{left}").write_text("half")
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    (store.drafts()[0].path / "files").symlink_to(outside)
    found = find_leftovers(store)
    assert len(found) == 6 and all(remove(store, each) for each in found)
    assert find_leftovers(store) == [] and (outside / "kept").read_text() == "kept"


def test_a_link_in_place_of_a_lock_is_removed_and_what_it_leads_to_stays(store: Store, tmp_path: Path) -> None:
    made = store.make("toy", fill, Toy(name="a"))
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    (draft,) = store.drafts()
    (begun := store.root / "artifacts/toy/0123456789abcdef").mkdir()
    (outside := tmp_path / "outside").write_text("mine")
    for folder in (made.path, draft.path, begun):
        (folder / "draft.lock").unlink(missing_ok=True)
        (folder / "draft.lock").symlink_to(outside)
    found = find_leftovers(store)
    assert {each.path for each in found} == {made.path / "draft.lock", draft.path, begun}
    assert all(remove(store, each) for each in found)
    assert outside.read_text() == "mine" and not draft.path.exists() and not begun.exists()
    assert find_leftovers(store) == [] and list(find_defects(store)) == []


def test_an_artifact_that_cannot_be_read_stays_and_the_rest_is_removed(
    store: Store, made: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    (made.path / "artifact.json").unlink()
    os.mkfifo(made.path / "artifact.json")
    (draft,) = store.drafts()
    found = find_leftovers(store)
    assert [each.path for each in found] == [draft.path] and remove(store, found[0])
    assert f"{made.path / 'artifact.json'} is a pipe" in caplog.text
    assert find_leftovers(store) == [] and made.path.exists(), "its records stay in the catalogue, too"


@pytest.mark.parametrize("place", ["artifacts", "artifacts/toy"])
def test_behind_a_link_nothing_counts_as_deleted(
    store: Store, made: Artifact, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.move(store.root / place, tmp_path / "elsewhere")
    (store.root / place).symlink_to(tmp_path / "elsewhere")
    assert find_leftovers(store) == []
    assert f"{store.root / place} is a link" in caplog.text


def test_a_catalogue_without_tables_holds_nothing_to_remove(store: Store, made: Artifact) -> None:
    store.catalog.path.unlink()
    duckdb.connect(str(store.catalog.path)).close()
    assert find_leftovers(store) == []
    assert [each.path for each in find_defects(store)] == [store.catalog.path]
