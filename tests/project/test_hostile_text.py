"""Law of output: whatever text a store, a file or an option holds, no output has control characters or markup of it.

A hostile text is put into every text of every artifact, pointer and draft, one at a time, into labels, names of files
and columns, and into every option that accepts text. All commands that print run on it.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.cli.flags import _kind
from curate.config import Config, flag_of
from curate.runtime.spreadsheet import FORMULA
from curate.runtime.terminal import CONTROL_CHARACTERS, command, say
from curate.stages import STAGES, stage_of
from curate.store import Store
from tests.support.exports import ROWS, ingest, train

Call = Callable[..., Any]

HOSTILE = (
    "x; echo $(touch pwned) `touch pwned`\x1b[31mRED\x1b]0;title\x07\x9b31m\u202e\u2066\n=cmd|' /C calc'!A0\r\n"
    "| <script>alert(1)</script> <img src=x onerror=y> ```\n# [a](javascript:b) \U000e0041 \x00"
)
WITHOUT_NULL = HOSTILE.replace("\x00", "")


def check_text(text: str) -> None:
    """Check one output: nothing that controls a terminal, and no command that a shell reads in another way."""
    found = CONTROL_CHARACTERS.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 80) : found.end() + 40]!r}"
    for line in re.findall(r"curate (?:resume|ingest|train|export|toy)\b[^\n]*", text):
        outside = re.sub(r"'[^']*'", "''", line)
        assert "$(" not in outside and "`" not in outside and "; echo" not in outside, line


def check_markdown(text: str) -> None:
    """Check a card: no HTML outside code, and no code that ends early."""
    assert CONTROL_CHARACTERS.search(text) is None
    outside, fence = [], ""
    front, body = re.fullmatch(r"(?s)---\n(.*?)\n---\n(.*)", text).groups()  # type: ignore[union-attr]
    for line in body.splitlines():
        ticks = re.match(r" {0,3}(`{3,})", line)
        if not fence and ticks:
            fence = ticks[1]
        elif fence and ticks and len(ticks[1]) >= len(fence) and line.strip() == ticks[1]:
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence, "a fence is not closed"
    plain = re.sub(r"\\[!-/:-@\[-`{-~]", "", "\n".join(outside))
    plain = re.sub(r"(?s)(`+)(?!`).*?(?<!`)\1(?!`)", "", plain)
    assert not re.search(r"<\s*[A-Za-z/!]|`|\[", plain), plain
    assert yaml.safe_load(front)["pretty_name"] == "out"
    assert "<script" not in text, "also code and YAML hold no tag"


@pytest.fixture
def tmp_path(memory_folder: Path) -> Path:
    """The folder of a test is in memory: each test copies and removes many stores."""
    return memory_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store: a pool of a hostile label, of a hostile file, with hostile columns; a run; a draft."""
    folder = tmp_path_factory.mktemp("hostile")

    def stop(draft: Any) -> None:
        raise KeyboardInterrupt

    class Toy(Config):
        seed: int = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        store = Store("store")
        ids = ingest(store, [{**row, f"col {WITHOUT_NULL}": WITHOUT_NULL} for row in ROWS])
        train(store, ids, [[0, 1], [2, 3]])
        with contextlib.suppress(KeyboardInterrupt):
            store.make("ingest", stop, Toy(name="draft"))
    return folder


@pytest.fixture
def world(made: Path, curate: Call, tmp_path: Path) -> Store:
    """A copy of that store in the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Store("store")


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every text in a JSON value, and of every key as a path that ends with None."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key, None)
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts(item, (*path, number))
    elif isinstance(value, str):
        yield path


def with_hostile(content: Any, path: tuple[Any, ...]) -> Any:
    """Return a JSON value with a hostile text at a path; a key is replaced where the path ends with None."""
    content = copy.deepcopy(content)
    *above, last = path if path[-1] is not None else path[:-1]
    inner = content
    for key in above:
        inner = inner[key]
    if path[-1] is None:
        inner[HOSTILE] = inner.pop(last)
    else:
        inner[last] = HOSTILE
    return content


COMMANDS = [
    ("status",),
    ("verify",),
    ("gc",),
    ("gc", "--drafts"),
    ("resume", "draft"),
    ("resume", HOSTILE),
    ("query", "--list"),
    ("query", "SELECT * FROM artifacts"),
    ("report", "uds", "--to", "page.html", "--overwrite"),
    ("export", "--run", "uds", "--name", "out", "--as", "jsonl"),
    ("doctor",),
    ("grade", "--pool", "pool", "--name", "g"),
    ("watch", "uds"),
    ("watch", "uds", "--once", "page.html", "--overwrite"),
    ("watch", "draft"),
    ("status", "uds", "--follow"),
]


def test_no_text_of_a_file_of_the_store_controls_the_terminal(world: Store, curate: Call, tmp_path: Path) -> None:
    files = [*world.root.rglob("artifact.json"), *world.root.rglob("draft.json"), *world.root.glob("names/*.json")]
    files += [*world.root.rglob("files.json"), world.root / "store.json"]
    tried = 0
    for file in files:
        original = file.read_text()
        for path in texts(json.loads(original)):
            file.write_text(json.dumps(with_hostile(json.loads(original), path)))
            for line in COMMANDS[: 6 if path[-1] is None else 8]:
                result = curate(*line)
                assert result.code in (0, 1), (file, path, line, result.err)
                check_text(result.out)
                check_text(result.err)
                assert "Traceback" not in result.err
                tried += 1
        file.write_text(original)
    assert tried > 300 and not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_no_text_of_a_pool_controls_the_terminal(world: Store, curate: Call, line: tuple[str, ...]) -> None:
    result = curate(*line)
    check_text(result.out)
    check_text(result.err)


@pytest.mark.parametrize("file_format", ["jsonl", "parquet", "hf"])
def test_no_text_becomes_markup_in_a_card(curate: Call, tmp_path: Path, file_format: str) -> None:
    name = re.sub(r"[/\x00=]", "", HOSTILE)[:120]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shown = curate("ingest", "--data", f"{name}.jsonl", "--data", f"{WITHOUT_NULL.replace('=', '')}={name}.jsonl",
                   "--name", "pool", "--licence", WITHOUT_NULL.replace("=", "").replace(",", ""))  # fmt: skip
    assert shown.code == 0, shown.err
    check_text(shown.out)
    check_text(shown.err)
    sql = f"SELECT sample_id, 1 AS x FROM samples WHERE source <> '{WITHOUT_NULL.replace(chr(39), '')}'"
    made = curate("export", "--sql", sql.replace("<script", "script"), "--name", "out", "--as", file_format)
    assert made.code == 0, made.err
    check_text(made.out)
    check_text(made.err)
    check_markdown((tmp_path / "exports" / "out" / "README.md").read_text())


def options() -> list[tuple[str, str]]:
    found = []
    for stage in STAGES:
        for name, field in stage_of(stage).config.model_fields.items():
            if _kind(field) != "bool":
                found.append((stage, flag_of(name, field)))
    return found


NEEDED = {
    "ingest": {"data": "pool.jsonl"},
    "embed": {"pool": "pool", "model": "nothing/there"},
    "cluster": {"features": "feats", "k": "2"},
    "select": {"pool": "pool", "method": "random", "budget": "2"},
    "train": {"pool": "pool", "model": "nothing/there", "selector": "random"},
    "curriculum": {"from": "uds"},
    "subset": {"pool": "pool"},
    "dedup": {"pool": "pool"},
    "decontaminate": {"pool": "pool", "against": "pool"},
    "grade": {"pool": "pool"},
    "split": {"pool": "pool", "shares": "a=1", "part": "a"},
    "advise": {"pool": "pool", "model": "nothing/there", "tokens": "9"},
    "evaluate": {"pool": "pool", "model": "nothing/there"},
    "attribute": {"run": "uds", "pool": "pool"},
    "compare": {"pool": "pool", "eval-pool": "pool", "model": "nothing/there", "selectors": "uds"},
    "export": {"run": "uds"},
}


@pytest.mark.parametrize("stage", NEEDED)
def test_no_option_controls_the_terminal(world: Store, curate: Call, stage: str) -> None:
    for flag in [flag for of, flag in options() if of == stage] + ["set", "config", "store"]:
        for value in (WITHOUT_NULL, f"{WITHOUT_NULL}=1", f"key={WITHOUT_NULL}"):
            given = {"name": "new", **NEEDED[stage], flag: value}
            result = curate(stage, *(word for key, text in given.items() for word in (f"--{key}", text)))
            assert result.code in (0, 1, 2), (flag, result.err)
            check_text(result.out)
            check_text(result.err)
            assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "line",
    [
        (HOSTILE,),
        ("status", HOSTILE),
        ("status", HOSTILE, "--follow"),
        ("watch", HOSTILE),
        ("watch", "uds", "--once", WITHOUT_NULL),
        ("status", f"--{HOSTILE}"),
        ("verify", HOSTILE),
        ("query", HOSTILE),
        ("query", "SELECT 1", "--memory", HOSTILE),
        ("query", "SELECT $x", "--param", f"x={HOSTILE}"),
        ("query", "SELECT 1", "--format", HOSTILE),
        ("run", WITHOUT_NULL),
        ("run", "demo", "--slurm", HOSTILE),
        ("run", "demo", "--slurm", f"partition={HOSTILE}"),
        ("run", "demo", "--slurm", f"{HOSTILE}.time=1"),
        ("run", "demo", "--part", HOSTILE),
        ("report", HOSTILE),
        ("report", "uds", "--title", HOSTILE),
        ("report", "uds", "--to", WITHOUT_NULL),
        ("report", "uds", "--by", HOSTILE),
        ("resume", HOSTILE, "--to", HOSTILE),
        ("inspect", "--pool", HOSTILE, "--model", HOSTILE),
    ],
    ids=lambda line: " ".join(line[:3]).encode("unicode_escape").decode()[:40],
)
def test_no_argument_controls_the_terminal(world: Store, curate: Call, line: tuple[str, ...]) -> None:
    result = curate(*line)
    assert result.code in (0, 1, 2), result.err
    check_text(result.out)
    check_text(result.err)
    assert "Traceback" not in result.err


def test_inspect_shows_texts_without_control_characters(curate: Call, tiny: str) -> None:
    store = Store("store")
    ingest(store, [{**row, "output": HOSTILE} for row in ROWS])
    result = curate("inspect", "--pool", "pool", "--model", tiny)
    assert result.code == 0, result.err
    check_text(result.out)
    check_text(result.err)


@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
def test_an_answer_on_a_terminal_is_escaped(
    world: Store, curate: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output_format: str
) -> None:
    import sys

    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    literal = WITHOUT_NULL.replace("'", "''")
    result = curate("query", f"SELECT '{literal}' AS a, 1 AS \"<b>\x1b[31m\"", "--format", output_format)
    assert result.code == 0, result.err
    check_text(result.out)


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\n=", " =", "\t", "\r", "\ufeff=", "\u200b=", "＝", " ＋", "－", "＠", "\u3000="]
)
def test_a_spreadsheet_runs_no_cell(curate: Call, store: Store, start: str) -> None:
    store.make("ingest", lambda draft: None, Config(name="a"))
    text = f"{start}1+cmd"
    result = curate("query", "SELECT $x AS x", "--param", f"x={json.dumps(text)}", "--format", "csv")
    assert result.code == 0, result.err
    ((_,), (shown,)) = csv.reader(io.StringIO(result.out))
    assert shown == "'" + text and not FORMULA.match(shown) and "1 cells start with a '" in result.err


def test_a_command_to_copy_is_read_by_a_shell_as_it_was_meant() -> None:
    assert shlex.split(command("curate", "resume", "a b", "--store", "it's $(x)")) == [
        *("curate", "resume", "a b", "--store", "it's $(x)")
    ]
    assert "no command can be shown" in command("curate", "resume", "a\x1b[31m")


def test_only_the_writer_prints() -> None:
    """No module but the writer calls `print` or writes to stdout or stderr, so no text can pass it."""
    import ast

    from tests.support.paths import ROOT

    allowed = {"curate/runtime/terminal.py", "curate/cli/answers/printing.py", "curate/cli/main.py"}
    for path in sorted((ROOT / "curate").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                wrong = called in ("print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write")
                assert not wrong or name in allowed, f"{name}:{node.lineno} calls {called}: use say"


def test_the_writer_escapes_what_a_stream_cannot_encode() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("é \x1b[31m \ud800", to=stream)
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe9 \\x1b[31m \\ud800\n"  # type: ignore[attr-defined]
