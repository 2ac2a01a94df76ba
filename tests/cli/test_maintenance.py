"""Tests of `curate verify`, `gc` and `repair`: damage is named, and derived files are rebuilt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from curate.errors import StoreError
from curate.stages.embed.config import EmbedConfig
from curate.store import Artifact, Draft, Store
from curate.store.artifacts.manifest import MANIFEST_FILE, MERGED, RECORDS
from curate.store.artifacts.parquet import read_parquet, write_parquet
from curate.store.catalog.fragments import fragments
from curate.store.maintenance.gc import Leftover, find_leftovers
from curate.store.maintenance.repair import repair
from curate.store.maintenance.verify import find_defects
from curate.store.vectors.index_kind import IndexKind
from curate.store.vectors.vectors import VectorShards
from tests.support.toy_store import Toy, cut, fill, flip, stopped


@pytest.fixture
def made(store: Store) -> Artifact:
    return store.make("toy", fill, Toy(name="a"))


def _leftovers(store: Store) -> list[Leftover]:
    try:
        return find_leftovers(store)
    except StoreError:  # gc removes nothing from a store that it cannot read
        return []


FILES = ["part-00000.parquet", "files/model.safetensors", "artifact.json", MANIFEST_FILE, "merged/samples/all.parquet"]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_no_other(
    store: Store, made: Artifact, file: str, damage: Callable[[Path], None]
) -> None:
    store.make("toy", fill, Toy(name="b", seed=1))
    assert list(find_defects(store)) == []
    damage(made.path / file)
    found = {problem.path for problem in find_defects(store)}
    named = (
        set() if file == MANIFEST_FILE and damage is Path.unlink else {made.path / file}
    )  # older ones have no record
    assert found - {store.catalog.path} == named
    if file == "artifact.json":
        assert all(each.path != made.path for each in _leftovers(store)), "what is damaged is not left over"


def test_all_of_an_artifact_is_on_the_disk_before_it_is_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk: list[int] = []
    sync = os.fsync

    def synced(descriptor: int) -> None:
        sync(descriptor)
        on_disk.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", synced)
    made = store.make("toy", fill, Toy(name="a"))
    last = on_disk.index((made.path / "artifact.json").stat().st_ino)
    files = [
        path for path in made.path.rglob("*") if path.is_file() and path.name not in ("draft.lock", "artifact.json")
    ]
    assert len(files) == 4 and all(path.stat().st_ino in on_disk[:last] for path in files)


def test_sizes_are_always_checked_and_bytes_on_request(made: Artifact) -> None:
    made.check(read=True)
    flip(made.files / "model.safetensors")
    made.check()
    with pytest.raises(StoreError, match=r"model\.safetensors has changed since it was written.*curate verify"):
        made.check(read=True, below="files/")
    made.check(read=True, below="part")
    cut(made.files / "model.safetensors")
    with pytest.raises(StoreError, match="has 350 bytes and should have 700"):
        made.check()


def test_a_changed_byte_in_a_table_is_an_error_for_its_reader(made: Artifact) -> None:
    path = made.shards()[0]
    content = bytearray(path.read_bytes())
    content[30] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"part-00000\.parquet cannot be read.*curate verify"):
        read_parquet(path)


def test_a_missing_shard_is_an_error_for_the_reader_of_the_table(store: Store) -> None:
    def two(draft: Draft) -> None:
        for shard in range(2):
            draft.write(shard, pa.table({"sample_id": [f"s{shard}"]}))

    made = store.make("ingest", two, Toy(name="pool"))
    assert store.query("SELECT count(*) AS n FROM conversations").to_pylist() == [{"n": 2}]
    made.shards()[1].unlink()
    with pytest.raises(StoreError, match=r"part-00001\.parquet is gone"):
        made.table()
    with pytest.raises(StoreError, match=r"part-00001\.parquet"):
        store.query("SELECT count(*) AS n FROM conversations")


def test_a_damaged_index_is_named_and_made_again(store: Store) -> None:
    faiss_index = pytest.importorskip("curate.store.vectors.faiss_index")
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float16)

    def features(draft: Draft) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8)
        draft.write(0, pa.table({"sample_id": [f"s{row}" for row in range(40)], "sketch": column}))

    made = store.make("embed", features, Toy(name="feats"))
    shards, kind = VectorShards(made.shards(), "sketch"), IndexKind("flat")
    queries = shards.load().matrix[:5]
    _, before = faiss_index.load_or_build_index(made.path, shards, kind).nearest(queries, 3)
    for damage in (flip, cut):
        damage(made.path / "sketch.faiss")
        assert [problem.path.name for problem in find_defects(store)] == ["sketch.faiss"]
        _, after = faiss_index.load_or_build_index(made.path, shards, kind).nearest(queries, 3)
        assert (after == before).all() and list(find_defects(store)) == []
        damage(made.path / "sketch.faiss")
        assert any("index sketch" in done for done in repair(store)) and list(find_defects(store)) == []


def test_a_manifest_that_is_no_manifest_any_more_is_named(store: Store, made: Artifact) -> None:
    (made.path / "artifact.json").write_text('{"stage": "toy"')
    with pytest.raises(StoreError, match=r"artifact\.json is damaged"):
        store.query("SELECT 1")
    (made.path / "artifact.json").write_text('{"stages": "toy"}')
    with pytest.raises(StoreError, match=r"artifact\.json is damaged"):
        store.get("a")


def answers(store: Store) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = store.query("SELECT * FROM samples ORDER BY ALL").to_pylist()
    return rows


@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"no database" * 500)])
def test_a_damaged_catalogue_is_made_again_from_the_artifacts(
    store: Store, made: Artifact, damage: Callable[[Path], None]
) -> None:
    store.make("toy", fill, Toy(name="b", seed=1))
    before = answers(store)
    damage(store.catalog.path)
    assert {problem.path for problem in find_defects(store)} == {store.catalog.path}
    with pytest.raises(StoreError, match=r"curate (verify|repair)"):
        store.query("SELECT sum(hash(s)) FROM samples s")
    assert any("again" in done for done in repair(store))
    assert answers(store) == before and list(find_defects(store)) == [] and find_leftovers(store) == []


def test_a_flipped_byte_in_the_catalogue_is_named_unless_its_block_is_free(store: Store, made: Artifact) -> None:
    before, content = answers(store), store.catalog.path.read_bytes()
    named = 0
    for at in range(100, len(content), 1 << 17):
        store.catalog.path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        if found := list(find_defects(store)):
            assert [problem.path for problem in found] == [store.catalog.path]
            named += 1
        else:  # in a block that is free
            assert answers(store) == before
    assert named >= 2, "the header, and at least a block"


@pytest.mark.parametrize("part", [0.3, 0.6])
def test_making_an_artifact_with_a_damaged_catalogue_is_an_error(store: Store, made: Artifact, part: float) -> None:
    content = store.catalog.path.read_bytes()
    store.catalog.path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(StoreError, match=r"curate (verify|repair)"):
        store.make("toy", fill, Toy(name="b", seed=1))


def test_rows_that_a_catalogue_lost_or_has_twice_are_found_and_repaired(store: Store, made: Artifact) -> None:
    before = answers(store)
    for change in ("DELETE FROM samples WHERE sample_id = 's1'", "INSERT INTO samples SELECT * FROM samples"):
        with duckdb.connect(str(store.catalog.path)) as connection:
            connection.execute(change)
        assert [problem.path for problem in find_defects(store)] == [store.catalog.path]
        list(repair(store))
        assert answers(store) == before and list(find_defects(store)) == []


def test_records_that_only_the_catalogue_has_are_written_to_their_artifacts(store: Store, made: Artifact) -> None:
    before = answers(store)
    for path in fragments(made.path, which=MERGED):
        path.unlink()
    (made.path / MANIFEST_FILE).unlink()  # as an older curate leaves it
    assert list(find_defects(store)) == []
    assert any("only the catalogue held" in done for done in repair(store))
    store.catalog.path.unlink()
    list(repair(store))
    assert answers(store) == before


def test_a_checkpoint_in_the_folder_of_another_step_is_named(store: Store, made: Artifact) -> None:
    for number, step in ((2, 2), (100, 2)):
        folder = made.path / "checkpoints" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        (folder / "curate.json").write_text(json.dumps({"step": step, "files": {}}))
    (defect,) = find_defects(store)
    assert defect.path == folder / "curate.json" and "is of step 2" in defect.wrong


def waits_again(made: Artifact) -> tuple[Path, Path]:
    """Copy a merged file of records to where records wait, and return both paths."""
    (merged,) = fragments(made.path, which=MERGED)
    waiting = made.path / RECORDS / merged.parent.name / merged.name
    waiting.parent.mkdir(parents=True, exist_ok=True)
    waiting.write_bytes(merged.read_bytes())
    return merged, waiting


@pytest.mark.parametrize("catalogue", ["sound", "damaged"])
def test_records_that_are_merged_and_wait_as_well_are_named_and_counted_once(
    store: Store, made: Artifact, catalogue: str
) -> None:
    before = answers(store)
    merged, waiting = waits_again(made)
    assert [each.path for each in find_defects(store)] == [waiting]
    if catalogue == "damaged":
        store.catalog.path.write_bytes(b"no database" * 500)
    else:
        assert answers(store) == before
    assert f"Removed {waiting}: the same records are merged." in list(repair(store))
    assert merged.exists() and answers(store) == before and list(find_defects(store)) == []
    merged, waiting = waits_again(made)
    assert store.sync() and merged.exists() and not waiting.exists() and answers(store) == before


def test_other_records_of_the_same_name_are_an_error_and_both_are_kept(store: Store, made: Artifact) -> None:
    merged, waiting = waits_again(made)
    write_parquet(waiting, read_parquet(merged).slice(1))
    contents = merged.read_bytes(), waiting.read_bytes()
    found = list(find_defects(store))
    assert {each.path for each in found} == {waiting}
    assert any(f"has the name of {merged}, and other records" in each.wrong for each in found)
    store.catalog.path.write_bytes(b"no database" * 500)
    with pytest.raises(StoreError, match=r"all.parquet .* cannot be built again without it"):
        list(repair(store))
    store.catalog.path.unlink()
    with pytest.raises(StoreError, match=r"and other records"):
        store.sync()
    assert (merged.read_bytes(), waiting.read_bytes()) == contents


def test_the_commands_print_it_and_exit_with_the_right_code(
    curate: Callable[..., object], store: Store, made: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*args: str) -> tuple[int, str, str]:
        done = curate(*args, "--store", str(store.root))
        return done.code, done.out, done.err  # type: ignore[attr-defined]

    assert call("verify")[0] == call("verify", "a")[0] == call("gc")[0] == call("repair")[0] == 0
    flip(made.files / "model.safetensors")
    code, out, err = call("verify")
    assert code == 1 and "model.safetensors has changed since" in out and "1 defect found" in err
    assert call("verify", "a")[0] == 1 and call("verify", "nobody")[0] == 1
    assert "cannot rebuild this file" in call("repair")[2]
    with pytest.raises(KeyboardInterrupt):
        store.make("toy", stopped, Toy(name="b", seed=1))
    assert "unfinished" not in call("gc", "--yes")[1] and len(store.drafts()) == 1
    code, out, _ = call("gc", "--drafts")
    assert code == 0 and "'b' (toy), unfinished" in out and len(store.drafts()) == 1
    assert call("gc", "--drafts", "--yes")[0] == 0 and store.drafts() == []
    assert json.loads((made.path / MANIFEST_FILE).read_text())["files"].keys() == {
        *("artifact.json", "facts/samples/all.parquet", "files/model.safetensors", "part-00000.parquet")
    }


@pytest.mark.parametrize("change", [{"workers": -1}, {"d1": "many"}, {"no_such_option": 1}], ids=str)
def test_a_draft_whose_options_resume_refuses_is_named(
    store: Store, curate: Callable[..., Any], change: dict[str, Any]
) -> None:
    config = EmbedConfig(name="half", pool="pool", model="base")
    with pytest.raises(KeyboardInterrupt):
        store.make("embed", stopped, config)
    (path,) = store.root.glob("artifacts/embed/*/draft.json")
    assert "draft.json" not in curate("verify").out
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"config": content["config"] | change}))
    for result in (curate("resume", "half"), curate("verify"), curate("verify", "half")):
        assert result.code == 1 and next(iter(change)).replace("_", "-") in (result.err + result.out).replace("_", "-")
    assert "draft.json has options that this version of curate cannot use" in curate("verify").out
