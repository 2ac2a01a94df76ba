"""Tests of the command line: flags become the config, errors give a remedy, and help imports nothing slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from curate import __version__, stages
from curate.cli.flags import with_flags
from curate.cli.main import COMMANDS, OTHER_NAMES
from curate.stages import STAGES, stage_of
from curate.store import Draft, Store

Call = Callable[..., Any]


def imported_by(*args: str, cwd: Path | None = None) -> set[str]:
    """Return the top-level modules that a command line imports, in its own process."""
    code = (
        "import sys\nfrom curate.cli.main import main\n"
        f"try: main({list(args)!r})\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "finally: print('MODULES', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return set(done.stderr.rpartition("MODULES")[2].split())


HEAVY = {"torch", "transformers", "datasets", "faiss", "sklearn", "peft"}


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_imports_nothing_that_takes_time(args: list[str]) -> None:
    assert imported_by(*args) & (HEAVY | {"duckdb", "pydantic", "pyarrow", "yaml", "numpy", "rich"}) == set()


def test_help_of_train_imports_its_options_and_nothing_that_takes_time() -> None:
    assert imported_by("train", "--help") & (HEAVY | {"duckdb", "pyarrow", "numpy", "scipy", "accelerate"}) == set()


@pytest.mark.parametrize("args", [["status"], ["query", "SELECT 1"], ["query", "--list"], ["run", "--help"]])
def test_looking_at_the_store_imports_no_torch(tmp_path: Path, store: Store, args: list[str]) -> None:
    from curate.config import Config

    store.make("ingest", lambda draft: None, Config(name="a"))
    assert imported_by(*args, cwd=tmp_path) & HEAVY == set()


def test_status_reads_the_inputs_of_a_run_without_what_checks_its_options(tmp_path: Path, store: Store) -> None:
    from curate.stages import build_config

    for stage, given in {
        "train": {"name": "r", "pool": "p", "model": "m", "selector": "uds", "candidates": 4, "keep": 2},
        "ingest": {"name": "p", "data": ["x.jsonl"]},
        "export": {"name": "e", "run": "r"},
        "cluster": {"name": "c", "features": "f", "k": 2},
    }.items():
        store.make(stage, lambda draft: None, build_config(stage, given))
    slow = HEAVY | {"numpy", "pyarrow", "duckdb", "scipy", "yaml"}
    assert imported_by("status", cwd=tmp_path) & slow == set()


@pytest.mark.parametrize("stage", ["embed", "export", "ingest"])
def test_the_options_of_a_stage_are_read_without_what_makes_it(stage: str) -> None:
    code = f"import sys; from curate.stages import config_of; config_of({stage!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "pyarrow", "duckdb", "torch"}.isdisjoint(loaded)


@pytest.mark.parametrize("stage", STAGES)
def test_the_options_of_a_stage_are_those_of_its_command(stage: str) -> None:
    assert stages.config_of(stage) is stage_of(stage).config


def test_a_query_forks_before_it_imports_anything_large(tmp_path: Path, store: Store) -> None:
    from curate.config import Config

    store.make("ingest", lambda draft: None, Config(name="a"))
    assert imported_by("query", "SELECT 1", cwd=tmp_path) & {"duckdb", "pyarrow", "numpy"} == set()
    code = "import sys, curate.cli.answers.rows; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "nor does the process of the query"


def test_status_shows_what_another_version_made_and_says_so(curate: Call, store: Store) -> None:
    from curate.config import Config

    store.make("ingest", lambda draft: None, Config(name="old"))
    assert "old: made by another version of curate ('data' is missing" in curate("status").out


def test_help_lists_every_stage_and_command_with_what_it_does(curate: Call) -> None:
    shown = " ".join(curate("--help").out.split())
    for name, line in [*STAGES.items(), *((name, line) for name, (_, line) in COMMANDS.items())]:
        assert f"{name} {line}" in shown
    assert curate("--version").out == f"curate {__version__}\n"


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_has_help_with_examples_that_name_it(curate: Call, name: str) -> None:
    result = curate(name, "--help")
    assert result.code == 0
    assert f"curate {name}" in result.out.partition("Examples:")[2]


def test_flags_are_made_from_the_config(curate: Call, toy: ModuleType) -> None:
    shown = " ".join(curate("toy", "--help").out.split())
    for text in [
        "--name <str> Name of the result in the store. [required]",
        "--rows <int> Rows. [default: 3]",
        "--shuffle / --no-shuffle Shuffle. [default: on]",
        "--kind <max_loss|uds> Kind. [default: uds]",
        "--as <int> Kept. [default: 1]",
        "--model, --model-name-or-path <str> Model.",
        "--data <list[str]> Data. [repeatable]",
        "curate toy --name t --rows 5",
    ]:
        assert text in shown


def config_of(curate: Call, toy: ModuleType, *args: str) -> Any:
    """Return the config that a command line makes."""
    seen: list[Any] = []

    def look(config: Any, inputs: Any, draft: Draft) -> None:
        seen.append(config)

    toy.run = look  # type: ignore[attr-defined]
    result = curate("toy", "--name", "t", *args)
    assert result.code == 0, result.err
    return seen[0]


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--rows", "7"], "rows", 7),
        (["--rate=1e-3"], "rate", 0.001),
        (["--no-shuffle"], "shuffle", False),
        (["--no_shuffle"], "shuffle", False),
        (["--kind", "max_loss"], "kind", "max_loss"),
        (["--layers", "1,2", "--layers", "3"], "layers", (1, 2, 3)),
        (["--options", "a=1", "--options", "b=1e-3,c=x"], "options", {"a": 1, "b": 0.001, "c": "x"}),
        (["--words", "a=1,b=2024-01-01"], "words", {"a": "1", "b": "2024-01-01"}),
        (["--limit", "12"], "limit", 12),
        (["--limit", "all"], "limit", "all"),
        (["--as", "4"], "keep", 4),
        (["--set", "rows=9"], "rows", 9),
        (["--set", "options.deep.er=2"], "options", {"deep": {"er": 2}}),
        (["--workers", "2", "--workers", "3"], "workers", 3),
    ],
)
def test_a_flag_becomes_the_value_of_its_field(
    curate: Call, toy: ModuleType, args: list[str], field: str, value: Any
) -> None:
    assert getattr(config_of(curate, toy, *args), field) == value


def test_a_path_may_hold_a_comma_and_model_has_two_spellings(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    for name in ("a,b.jsonl", "c.jsonl"):
        (tmp_path / name).write_text("{}")
    config = config_of(curate, toy, "--data", "a,b.jsonl", "--data", "x=c.jsonl", "--model_name_or_path", "c.jsonl")
    assert config.data == ("a,b.jsonl", "x=c.jsonl") and config.model == "c.jsonl"


def test_the_file_comes_first_then_flags_then_set(curate: Call, toy: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rows: 1\nrate: 0.1\nkeep: 1\noptions: {a: 1, b: 1, c: 1}\n")
    flags = ["--config", "c.yaml", "--rate", "0.2", "--as", "2", "--options", "b=2", "--set", "keep=3"]
    config = config_of(curate, toy, *flags, "--set", "options.c=3")
    assert (config.rows, config.rate, config.keep) == (1, 0.2, 3)
    assert config.options == {"a": 1, "b": 2, "c": 3}


def test_the_summary_goes_to_stdout_and_the_path_to_stderr(curate: Call, toy: ModuleType) -> None:
    first = curate("toy", "--name", "t")
    assert first.out == "rows  3\nrate  0.5\nparts\n  kept  1\n"
    assert first.err.startswith("made t (toy) in store/artifacts/toy/")
    again = curate("toy", "--name", "t")
    assert again.out == first.out and again.err == first.err.replace("made", "found")


def test_the_store_is_chosen_by_flag_and_by_environment(
    curate: Call, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate("toy", "--name", "t", "--store", "one")
    monkeypatch.setenv("CURATE_STORE", "two")
    curate("toy", "--name", "t")
    assert [Store(tmp_path / root).has("t") for root in ("one", "two", "store")] == [True, True, False]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["toi"], 2, "There is no command 'toi'. Did you mean 'toy'?"),
        (["list"], 2, "There is no command 'list'. Did you mean 'status'?"),
        (["fine-tune"], 2, "There is no command 'fine-tune'."),
        (["toy", "--name", "a b"], 1, "name: A name has only letters, digits, '.', '_' and '-', and begins with"),
        (["toy", "--rws", "3"], 2, "--rows"),
        (["toy", "--rows", "many"], 2, "Invalid value for '--rows'"),
        (["toy", "--kind", "udss"], 2, "Invalid value for '--kind'"),
        (["toy"], 1, "'name' is missing: give --name"),
        (["toy", "--name", "t", "--rows", "0"], 1, "rows: Input should be greater than 0 (got 0)"),
        (["toy", "--name", "t", "--set", "rws=1"], 1, "Unknown key 'rws'. Did you mean 'rows'?"),
        (["toy", "--name", "t", "--set", "rows"], 1, "--set needs key=value"),
        (["toy", "--name", "t", "--options", "x"], 1, "--options needs key=value: an argument of it has no '='"),
        (["toy", "--name", "t", "--config", "none.yaml"], 1, "There is no config file none.yaml"),
        (["toy", "--name", "t", "--parent", "p"], 1, "There is nothing named 'p' in the store store"),
        (["query"], 1, "The query is missing"),
        (["status"], 1, "There is no store in store"),
        (["run", "none.yaml"], 1, "There is no config file none.yaml"),
    ],
)
def test_an_error_is_a_message_with_a_remedy(
    curate: Call, toy: ModuleType, args: list[str], code: int, message: str
) -> None:
    result = curate(*args)
    assert (result.code, result.out) == (code, "")
    assert message in result.err and "Traceback" not in result.err


def test_an_interrupted_command_names_how_to_resume_and_resumes(curate: Call, toy: ModuleType) -> None:
    stop = ("toy", "--name", "t", "--options", "fail_at=1")
    first = curate(*stop)
    assert first.code == 130 and "Interrupted: run the same command again to resume." in first.err
    assert curate(*stop).code == 0


def test_ctrl_c_within_duckdb_is_ctrl_c(curate: Call, toy: ModuleType) -> None:
    def asks(*_: object) -> None:
        raise RuntimeError("Query interrupted")  # DuckDB's word, where it was at work in the main thread

    toy.run = asks  # type: ignore[attr-defined]
    stopped = curate("toy", "--name", "t")
    assert stopped.code == 130 and "Interrupted: run the same command again to resume." in stopped.err


def test_a_view_gets_its_flags_from_its_config_and_makes_nothing(
    curate: Call, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(COMMANDS, "look", (f"{toy.__name__}:look", "Look."))
    toy.look = with_flags(toy.STAGE.config, lambda root, config: print(root, config.rows))  # type: ignore[attr-defined]
    assert curate("look", "--name", "t", "--rows", "8").out == "store 8\n"
    assert not (tmp_path / "store").exists()


# status and resume


def test_status_lists_artifacts_and_those_that_are_stale_or_unfinished(
    curate: Call, toy: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "d.jsonl").write_text("1")
    curate("toy", "--name", "base")
    curate("toy", "--name", "child", "--parent", "base", "--data", "d.jsonl")
    curate("toy", "--name", "going", "--rate", "0.9", "--options", "fail_at=1")
    fresh = curate("status")
    assert "Stale" not in fresh.out and "Catalogue store/catalog.duckdb" in fresh.out
    assert [line.split()[:3] for line in fresh.out.splitlines() if " toy " in line] == [
        ["base", "toy", "3"],
        ["child", "toy", "3"],
    ]
    assert "going (toy): resume it with: curate resume going\n" in fresh.out

    curate("toy", "--name", "base", "--rows", "5")
    assert "child: parent 'base' has been made again" in curate("status").out
    (tmp_path / "d.jsonl").write_text("2")
    assert "child: data 'd.jsonl' has changed" in curate("status").out
    (tmp_path / "d.jsonl").unlink()
    assert "child: data 'd.jsonl' is gone" in curate("status").out


def test_status_finds_relative_data_from_any_folder(
    curate: Call, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d.jsonl").write_text("1")
    for data in ("d.jsonl", "x=./d.jsonl"):
        made = curate("toy", "--name", "t", "--data", data, "--model", "d.jsonl")
        assert made.code == 0, made.err
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert "Stale" not in curate("status", "--store", str(tmp_path / "store")).out
        monkeypatch.chdir(tmp_path)
        assert "found t" in curate("toy", "--name", "t", "--data", data, "--model", "d.jsonl").err
    assert Store("store").get("t").config["model"] == str(tmp_path / "d.jsonl")


def test_resume_finishes_an_artifact_with_its_recorded_config(curate: Call, toy: ModuleType) -> None:
    curate("toy", "--name", "going", "--rate", "0.9", "--options", "fail_at=1")
    result = curate("resume", "going")
    assert result.code == 0 and result.err.startswith("made going (toy)")
    assert Store("store").get("going").config["rate"] == 0.9
    assert "No unfinished artifact is named 'going'" in curate("resume", "going").err


def test_resume_is_an_error_if_an_input_has_changed(curate: Call, toy: ModuleType) -> None:
    curate("toy", "--name", "base")
    curate("toy", "--name", "going", "--parent", "base", "--options", "fail_at=1")
    curate("toy", "--name", "base", "--rows", "5")
    result = curate("resume", "going")
    assert result.code == 1 and "'going' cannot be resumed: parent changed since it was started" in result.err


def test_a_name_that_other_tools_use_suggests_a_command_that_exists() -> None:
    assert set(OTHER_NAMES.values()) <= {*STAGES, *COMMANDS}
    assert not set(OTHER_NAMES) & {*STAGES, *COMMANDS}
