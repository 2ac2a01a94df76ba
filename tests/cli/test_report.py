"""Tests of the command `curate report`: the page on disk, the errors, and the text and secrets in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import curate.cli.stage
from curate import Store
from curate.cli.main import plain_command, stage_command
from curate.report.page import as_json, page
from curate.stages import STAGES
from tests.cli.test_main import imported_by
from tests.support.reports import HOSTILE, LEDGERS, POOL, add_run, data_in, page_content, store_of

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("report"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def test_a_report_is_written_where_it_was_asked_for_and_the_path_alone_is_printed(curate: Call, store: Store) -> None:
    done = curate("report", "a", "b", "--to", "pages/both.html", "--title", "A <b> & B")
    assert (done.code, done.out) == (0, "pages/both.html\n")
    assert re.search(r"^[\d.]+ kB in pages/both.html$", done.err, re.MULTILINE)
    text = Path("pages/both.html").read_text(encoding="utf-8")
    assert "<title>A &lt;b&gt; &amp; B</title>" in text
    content = json.loads(data_in(text))
    assert content["title"] == "A <b> & B" and [run["name"] for run in content["runs"]] == ["a", "b"]
    assert [path.name for path in Path("pages").iterdir()] == ["both.html"], "nothing half-written is left"
    assert curate("report", "a").out == "report.html\n"
    assert json.loads(data_in(Path("report.html").read_text(encoding="utf-8")))["title"] == "a"


def test_a_file_is_left_alone_unless_it_may_be_replaced(curate: Call, store: Store) -> None:
    Path("mine.html").write_text("mine")
    refused = curate("report", "a", "--to", "mine.html")
    assert (refused.code, refused.out) == (1, "") and Path("mine.html").read_text() == "mine"
    assert "mine.html already exists. Give another file to --to, or give --overwrite to replace it." in refused.err
    assert curate("report", "nobody", "--to", "mine.html", "--overwrite").code == 1
    assert Path("mine.html").read_text() == "mine", "what fails leaves the old page"
    assert curate("report", "a", "--to", "mine.html", "--overwrite").code == 0
    assert Path("mine.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["a", "far"], 1, "The runs a and far are over different pools"),
        (["a", "a"], 1, "A run is named twice"),
        (
            ["ab"],
            1,
            "There is nothing named 'ab' in the store store. Did you mean 'b'? Make it: curate train --name ab",
        ),
        (["pool"], 1, "'pool' in the store store was made by ingest, not by train"),
        (["a", "--by", "famly"], 1, "The pool 'pool' has no column 'famly' to group by. Did you mean 'family'?"),
        (["a", "--features", "pool"], 1, "made by ingest, not by embed"),
        (["a", "--clusters", "none"], 1, "nothing named 'none'"),
        (["a", "--to", "."], 1, ". is a folder. Give --to the name of a file"),
        (["a", "--max-samples", "0"], 2, "--max-samples"),
        (["a", "--store", "elsewhere"], 1, "There is no store in elsewhere"),
        ([], 2, "RUN..."),
    ],
)
def test_a_report_that_cannot_be_made_is_an_error_with_its_reason(
    curate: Call, store: Store, args: list[str], code: int, message: str
) -> None:
    done = curate("report", *args)
    assert (done.code, done.out) == (code, "") and not Path("report.html").exists()
    assert message in done.err and "Traceback" not in done.err


def test_a_column_with_a_value_a_row_is_nothing_to_group_by(
    curate: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.report.groups.MOST", 30)
    done = curate("report", "a", "--by", "task,number")
    assert done.code == 1 and "--by number: the column has 39 values, but at most 30 can be grouped by" in done.err


def test_a_map_by_umap_is_never_a_map_by_something_else(
    curate: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.report.embedding_map.find_spec", lambda name: None)
    done = curate("report", "a", "--map", "umap")
    assert done.code == 1 and "pip install umap-learn" in done.err and not Path("report.html").exists()


def test_texts_come_back_as_they_were_and_none_of_them_ends_the_data(store: Store) -> None:
    text = page(page_content(store, "a", "b", title="".join(HOSTILE)))
    block = data_in(text)
    assert "<" not in block and "\u2028" not in block and "\u2029" not in block
    content = json.loads(block)
    assert content["samples"]["prompt"] == [row["instruction"] for n, row in enumerate(POOL) if n != 33]
    assert content["title"] == "".join(HOSTILE)
    assert text.count("</script") == 3, "data, library and app: nothing else ends a script"


def test_half_characters_are_escaped_and_what_is_no_number_is_refused() -> None:
    assert json.loads(as_json({"text": "\ud800<\udfff"})) == {"text": "\ud800<\udfff"}
    as_json({"text": "\ud800"}).encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"value": float("nan")})


def test_a_page_asks_no_network_and_runs_its_own_scripts_alone(store: Store) -> None:
    text = page(page_content(store, "a"))
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy and "@@" not in text[: text.index("<body>")]
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy[1]
    inline = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in inline]
    assert len(inline) == 2 and rules["script-src"].split() == hashes
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text.split("<script")[0])


def test_no_token_and_no_path_of_this_machine_is_in_a_page(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")
    rows = [row | {"step": row["step"] + 1} for row in LEDGERS["a"]]
    add_run(store, "c", rows, 21, model="s3://me:secret@bucket/model?key=secret")
    text = page(page_content(store, "a", "c"))
    assert "hf_averysecrettoken" not in text and "secret" not in text and "s3://bucket/model" in text
    assert str(tmp_path) not in text and str(Path.home()) not in text.split('id="data">')[1].split("</script")[0]


def commands_in(content: dict[str, Any]) -> dict[str, list[str]]:
    """Section -> the command lines that its missing sentence gives."""
    sentences = dict(content["missing"])
    for run in content["runs"]:
        sentences |= {f"{run['name']}: {section}": message for section, message in run["missing"].items()}
    assert all(": curate " in message for message in sentences.values())
    return {
        section: [f"curate {part}" for part in f"&& {message.partition(': ')[2]}".split("&& curate ")[1:]]
        for section, message in sentences.items()
    }


def test_a_missing_part_gives_a_command_that_can_be_typed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(curate.cli.stage, "make_and_print", lambda store, stage, config: built.append((stage, config)))
    rows = [row | {"score": None, "loss": None, "parts": []} for row in LEDGERS["a"]]
    add_run(store, "blind", rows, 22)
    found = commands_in(page_content(store, "blind"))
    assert set(found) == {
        *("map", "clusters", "agreement", "comparisons", "evaluations"),
        *(f"blind: {part}" for part in ("loss", "eval", "scores", "distributions", "time")),
    }
    for lines in found.values():
        assert lines
        for line in lines:
            name, *args = shlex.split(line)[1:]
            if name in STAGES:
                stage_command(name).main(args, standalone_mode=False)
            else:
                plain_command(name).make_context(name, args)
    assert {stage for stage, _ in built} == {"embed", "cluster", "compare", "evaluate", "train"}
    assert all(getattr(config, "pool", "pool") in ("pool", "HELDOUT") for _, config in built)


def test_a_report_imports_no_torch(store: Store, tmp_path: Path) -> None:
    assert imported_by("report", "a", cwd=tmp_path) & {"torch", "transformers", "datasets", "faiss"} == set()
