"""Data behind URLs is read as from a folder and fingerprinted by its file system's metadata; exports are careful."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from curate.errors import DataError, ModelError
from curate.formats import read_location
from curate.formats.locations import digest_url, label_and_location, shown
from curate.stages import make
from curate.stages.inputs import label_of, locate
from curate.stages.pools import pool_samples
from curate.store import Artifact, Store
from tests.support.exports import ROWS, export

SQL = "SELECT sample_id FROM samples ORDER BY position"


@pytest.fixture
def memory() -> Iterator[Any]:
    """The in-process object store, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


def lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def ingest(store: Store, *data: str, **options: Any) -> Artifact:
    return make(store, "ingest", data=data, **{"name": "pool", **options})


def test_a_bucket_is_read_as_the_same_folder_on_disk_is(memory: Any, store: Store, tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines(ROWS[:2]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[2:3])))
    (folder / "c.csv").write_text("prompt,completion\nq,a\n")
    (folder / ".hidden.jsonl").write_bytes(lines(ROWS))
    (folder / "notes.txt").write_text("nothing")
    Dataset.from_list(ROWS[3:]).to_parquet(str(folder / "sub" / "d.parquet"))
    memory.put(str(folder), "/bucket/data", recursive=True)
    there = ingest(store, "memory://bucket/data")
    here = ingest(store, str(folder), name="here")
    assert [(n, s.original) for n, s in pool_samples(there)] == [(n, s.original) for n, s in pool_samples(here)]
    assert there.summary == here.summary and there.rows == 7
    assert ingest(store, "memory://bucket/data/a.jsonl", name="one").summary["sources"] == {"a": 2}
    assert ingest(store, "mine=memory://bucket/data/b.jsonl.gz", name="two").summary["sources"] == {"mine": 1}


def test_rejects_and_errors_name_the_url(memory: Any, store: Store) -> None:
    memory.pipe("/bucket/a.jsonl", lines(ROWS[:1]) + b"{broken\n")
    ingest(store, "memory://bucket/a.jsonl")
    found = store.query('SELECT file, "row" FROM rejects').to_pylist()
    assert found == [{"file": "memory://bucket/a.jsonl", "row": 2}]
    memory.pipe("/bucket/a.parquet", b"nothing")
    memory.pipe("/bucket/empty/x.txt", b"nothing")
    for url, message in {
        "memory://bucket/b.jsonl": r"There is nothing at memory://bucket/b\.jsonl\. Check",
        "memory://bucket/a.parquet": r"memory://bucket/a\.parquet cannot be read",
        "memory://bucket/empty": r"memory://bucket/empty contains no data file\. curate reads \.jsonl",
        "memory://bucket/empty/x.txt": "has no file type that curate can read",
        "nowhere://bucket/a.jsonl": "Protocol not known: nowhere",
        "file:///nowhere/a.jsonl": "There is no file or folder /nowhere/a.jsonl",
    }.items():
        with pytest.raises(DataError, match=message):
            ingest(store, url, name="bad")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("no s3fs")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(DataError, match=r"s3://bucket/a.jsonl needs a driver that is not installed: pip install s3fs"):
        digest_url("s3://bucket/a.jsonl?secret=1")


def test_the_fingerprint_changes_with_the_content_and_not_with_the_address(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/one/a.jsonl", lines(ROWS[:1]))
    first = digest_url("memory://one")
    assert digest_url("memory://one") == first
    memory.pipe("/one/a.jsonl", lines(ROWS[1:2]))
    changed = digest_url("memory://one")
    assert changed != first
    memory.pipe("/one/b.jsonl", lines(ROWS[:1]))
    assert digest_url("memory://one") not in {first, changed}


def test_a_reported_checksum_counts_before_the_time_of_the_file(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/one/a.jsonl", b"a")
    memory.pipe("/two/a.jsonl", b"a")
    by_clock, other = (digest_url(f"memory://{name}/a.jsonl") for name in ("one", "two"))
    assert by_clock != other
    real = type(memory).info
    tag = {"ETag": "abc"}
    monkeypatch.setattr(type(memory), "info", lambda self, path, **options: real(self, path, **options) | tag)
    by_tag = digest_url("memory://one/a.jsonl")
    assert by_tag == digest_url("memory://two/a.jsonl") != by_clock
    tag["ETag"] = "abd"
    assert digest_url("memory://one/a.jsonl") != by_tag
    monkeypatch.undo()

    def unknown(self: Any, path: str) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "modified", unknown)
    same = digest_url("memory://one/a.jsonl")
    assert same == digest_url("memory://two/a.jsonl"), "without metadata the content is read"
    memory.pipe("/two/a.jsonl", b"b")
    assert same != digest_url("memory://two/a.jsonl")


def test_file_urls_are_paths(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a b.jsonl").write_bytes(lines(ROWS))
    url = (tmp_path / "a b.jsonl").as_uri()
    pool = ingest(store, f"x={url}")
    assert pool.fingerprint == ingest(store, f"x={tmp_path}/a b.jsonl").fingerprint
    export(store, sql=SQL, to=(tmp_path / "out").as_uri(), file_format="jsonl")
    assert (tmp_path / "out/train.jsonl").exists()


@pytest.mark.parametrize(
    ("entry", "label", "where"),
    [
        ("a=b.jsonl", "a", "b.jsonl"),
        ("https://host/a.jsonl?x=1", None, "https://host/a.jsonl?x=1"),
        ("web=https://host/a.jsonl?x=1", "web", "https://host/a.jsonl?x=1"),
        ("folder/a.jsonl", None, "folder/a.jsonl"),
    ],
)
def test_labels_and_urls_are_told_apart(entry: str, label: str | None, where: str) -> None:
    assert label_and_location(entry) == (label, where)


def test_secrets_in_a_url_are_shown_nowhere(memory: Any, store: Store) -> None:
    assert shown("https://me:pw@host:8/a.jsonl?token=x#y") == "https://host:8/a.jsonl"
    assert label_of("https://host/data/a.jsonl?token=x=y") == "a"
    memory.pipe("/bucket/a.jsonl", lines(ROWS))
    ingest(store, "web=memory://bucket/a.jsonl")
    export(store, sql=SQL)
    assert "web=memory://bucket/a.jsonl" in Path("exports/out/README.md").read_text()


def test_a_model_behind_a_url_is_an_error(store: Store) -> None:
    with pytest.raises(ModelError, match="from a folder or the Hub, not from s3://bucket/model"):
        locate(store, "s3://bucket/model", kind="model")


# Writing


@pytest.mark.parametrize("file_format", ["hf", "jsonl", "parquet"])
def test_an_export_to_a_url_is_what_it_is_on_disk_and_can_be_ingested_from_there(
    memory: Any, store: Store, tmp_path: Path, file_format: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    ids = [sample.sample_id for _, sample in pool_samples(ingest(store, str(tmp_path / "a.jsonl")))]
    artifact = export(store, sql=SQL, file_format=file_format, to="memory://bucket/out")
    sent = {path.removeprefix("/bucket/out/"): memory.cat_file(path) for path in memory.find("/bucket/out")}
    marker = json.loads(sent.pop(".curate-export.json"))
    assert sent == {p.relative_to(artifact.files).as_posix(): p.read_bytes() for p in artifact.files.rglob("*.*")}
    assert marker == {"name": "out", "fingerprint": artifact.fingerprint, "files": sorted(sent)}
    assert not Path("exports").exists()
    again = ingest(store, "memory://bucket/out", name="again")
    assert [sample.sample_id for _, sample in pool_samples(again)] == ids


def test_what_is_at_a_url_is_replaced_only_if_it_is_that_export(memory: Any, store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    ingest(store, str(tmp_path / "a.jsonl"))
    to = "memory://bucket/out"
    export(store, sql=SQL, to=to)
    export(store, sql=f"{SQL} LIMIT 2", to=to, file_format="parquet")
    files = [".curate-export.json", "README.md", "train.parquet"]
    assert [path.rpartition("/")[2] for path in memory.find("/bucket/out")] == files, "what was replaced is gone"
    with pytest.raises(DataError, match=r"memory://bucket/out is the export 'out' and is left alone"):
        export(store, sql=SQL, to=to, name="other")
    memory.pipe("/bucket/out/thesis.txt", b"ten years")
    with pytest.raises(DataError, match=r"holds thesis\.txt and is left alone.*--overwrite"):
        export(store, sql=SQL, to=to)
    export(store, sql=SQL, to=to, overwrite=True)
    assert memory.cat_file("/bucket/out/thesis.txt") == b"ten years"
    memory.pipe("/bucket/mine/README.md", b"ten years")
    with pytest.raises(DataError, match=r"holds README\.md, which is no file of an export .* in the way"):
        export(store, sql=SQL, to="memory://bucket/mine", overwrite=True)
    assert memory.cat_file("/bucket/mine/README.md") == b"ten years"


def test_an_upload_that_was_stopped_can_be_repeated(
    memory: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    ingest(store, str(tmp_path / "a.jsonl"))
    real, sent = type(memory).put_file, []

    def stop(self: Any, here: str, there: str, **options: Any) -> None:
        if sent:
            raise ConnectionError("gone")
        sent.append(there)
        real(self, here, there, **options)

    monkeypatch.setattr(type(memory), "put_file", stop)
    with pytest.raises(DataError, match=r"memory://bucket/out cannot be reached \(ConnectionError: gone\)"):
        export(store, sql=SQL, to="memory://bucket/out")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    export(store, sql=SQL, to="memory://bucket/out")
    assert ingest(store, "memory://bucket/out", name="again").rows == len(ROWS)


# The web


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of `tmp_path`/web that knows neither ranges nor ETags."""
    pytest.importorskip("aiohttp", reason="fsspec reads https:// with aiohttp, which is not installed")
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_of_a_web_server_are_read_and_change_the_fingerprint(web: str, tmp_path: Path) -> None:
    rows = [{"text": "x" * 1000, "n": n} for n in range(5000)]
    file = tmp_path / "web/a.jsonl"
    file.write_bytes(lines(rows))
    (tmp_path / "web/b.jsonl.gz").write_bytes(gzip.compress(lines(rows[:3])))
    for name, expected in {"a.jsonl?token=1": rows, "b.jsonl.gz": rows[:3]}.items():
        found = list(read_location(f"{web}/{name}", split="train"))
        assert [row.values for row in found] == expected and found[0].file == f"{web}/{name.partition('?')[0]}"
    first = digest_url(f"{web}/a.jsonl")
    assert digest_url(f"{web}/a.jsonl") == first
    file.write_bytes(lines(reversed(rows)))
    assert digest_url(f"{web}/a.jsonl") != first
    with pytest.raises(DataError, match=r"There is nothing at .*nothing\.jsonl"):
        digest_url(f"{web}/nothing.jsonl")
