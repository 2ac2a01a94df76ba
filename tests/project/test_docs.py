"""Documents that lie fail: every command, flag, config, selector, table and question that they name is there.

Commands are built as a user's would be, up to the point where something would be made; questions are asked of a store.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import curate.cli.run
import curate.cli.stage
from curate import Store as UserStore
from curate.api.commands.questions import saved
from curate.cli.main import COMMANDS, build_app, plain_command, spelled, stage_command
from curate.cli.query import describe
from curate.config import load
from curate.executors.slurm.resources import read_assignments, resources
from curate.pool_selectors import POOL_SELECTORS
from curate.selectors import SELECTORS
from curate.stages import STAGES, make, stage_of
from curate.store import Store
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.query import VECTORS, ledger_views
from tests.fuzz.__main__ import parser_of_arguments
from tests.support.paths import ROOT

NAMES = [*STAGES, *COMMANDS]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in DOCUMENTS}
README = TEXTS["README.md"]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))

COMMAND = re.compile(rf"\bcurate (?:{'|'.join(NAMES)})(?![\w-]).*")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_ENDS = {">", "|", "&&", ";", "…"}
TYPED = ("inspect", "query", "run", "status")
"""Commands beside the stages that can be typed without anything being made; of the others the arguments are parsed."""
TOP_FLAGS = ("--help", "--version", "--traceback", "--install-completion", "--show-completion")
OTHERS_FLAGS = re.compile(r"^(?:python|torchrun) .*?(?=-m curate|$)", re.MULTILINE)
"""The part of a line that is not ours to check."""


def examples_of(name: str) -> str:
    """Command lines that --help of a command shows."""
    text: str = (
        import_module(COMMANDS[name][0].partition(":")[0]).EXAMPLES if name in COMMANDS else stage_of(name).examples
    )
    return text


def typed(language: str, block: str) -> list[tuple[str, list[str]]]:
    """Commands of a code block, each on one line, and what is shown as their output (of `console` alone).

    A command goes on where a line ends with a backslash or within quotes.
    """
    found: list[tuple[str, list[str]]] = []
    begun = ""
    for line in block.replace("\\\n", " ").splitlines():
        if not (begun or language == "sh" or line.startswith("$ ")):
            found[-1][1].append(line)
            continue
        begun += f" {line}" if begun else line.removeprefix("$ ")
        if begun.count('"') % 2 == 0:
            found.append((" ".join(begun.split()), []))
            begun = ""
    return [(command, output) for command, output in found if command]


def lines_of(name: str) -> list[str]:
    """Commands of ours in the code blocks of a document; not those that are shown to be refused."""
    commands = [
        command
        for language, block in BLOCK.findall(TEXTS[name])
        if language in ("sh", "console")
        for command, output in typed(language, block)
        if not (output and output[0].startswith("Error: "))
    ]
    return [line for line in commands if line.startswith("curate ") or " -m curate " in line]


def shown() -> Iterator[tuple[str, str]]:
    """(where, command line) of every command that is shown to be typed."""
    for name in TEXTS:
        yield from ((name, line) for line in lines_of(name))
    for file in [*CONFIGS, *PIPELINES]:
        comments = [line for line in file.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("#")]
        yield from ((file.name, found[0]) for line in comments if (found := COMMAND.search(line)))
    for name in NAMES:
        yield from ((f"{name} --help", line) for line in examples_of(name).strip().splitlines())


def mentioned() -> Iterator[tuple[str, str]]:
    """(where, command line) of every command in running text."""
    for name, text in TEXTS.items():
        prose = BLOCK.sub("", text)
        yield from ((name, line) for line in re.findall(r"`(curate [^`\n]+)`", prose))


def words(line: str) -> list[str]:
    """What a shell would hand to curate."""
    parts = shlex.split(line[line.index("curate ") :], comments=True)[1:]  # what torchrun starts, where it does
    end = next((place for place, part in enumerate(parts) if part in SHELL_ENDS), len(parts))
    return spelled(parts[:end])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, pool_file: Path) -> Store:
    """A store with one pool."""
    store = Store(tmp_path_factory.mktemp("docs") / "store")
    make(store, "ingest", name="pool", data=[str(pool_file)])
    return store


def check_slurm(store: Store, entries: list[Any], given: list[str], file: Path, *, dry_run: bool) -> None:
    """Check what a job of each entry would get."""
    found = read_assignments(given, {name for entry in entries for name in (entry.stage, entry.label)})
    for entry in entries:
        resources(found, entry.stage, entry.label, distributed=entry.stage in ("embed", "train", "select", "evaluate"))


@pytest.fixture
def type_in(filled: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Types a command line, in the project's folder, with everything that makes something taken out."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CURATE_STORE", str(filled.root))
    built: list[Any] = []
    monkeypatch.setattr(curate.cli.stage, "make_and_print", lambda store, stage, config: built.append(config))
    monkeypatch.setattr(curate.cli.run, "run", lambda store, entries: built.append(entries) or [])
    monkeypatch.setattr(curate.cli.run, "_submit", check_slurm)
    monkeypatch.setattr("curate.cli.inspect.inspect", lambda store, config: built.append(config))

    def type_in(line: str) -> None:
        name, *args = words(line)
        readers_own = name == "query" and args[0].endswith(".sql") and not Path(args[0]).exists()
        of_a_run = name == "status" and args != []
        if readers_own or of_a_run or name not in (*STAGES, *TYPED):
            plain_command(name).make_context(name, args)
            return
        build_app().main([name, *args], "curate", standalone_mode=False)
        for config in built:
            if getattr(config, "sql", None):
                filled.query(config.sql)

    return type_in


@pytest.mark.parametrize(("where", "line"), shown())
def test_a_command_that_is_shown_can_be_typed(where: str, line: str, type_in: Callable[[str], None]) -> None:
    type_in(line)


@pytest.mark.parametrize(("where", "line"), mentioned())
def test_a_command_that_is_mentioned_exists_with_its_flags(where: str, line: str) -> None:
    name, *args = words(line)
    if name.startswith("-"):
        assert name in TOP_FLAGS
        return
    assert name in NAMES
    if args and "--help" not in args:  # a name alone stands for the command, not for a line to type
        (stage_command if name in STAGES else plain_command)(name).make_context(name, args)


@pytest.mark.parametrize("name", TEXTS)
def test_every_flag_in_a_document_is_one(name: str) -> None:
    commands = [stage_command(stage) for stage in STAGES] + [plain_command(command) for command in COMMANDS]
    known = {flag for command in commands for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    known |= set(parser_of_arguments().format_help().split()) if name == "docs/safety.md" else set()
    text = OTHERS_FLAGS.sub("", TEXTS[name].replace("\\\n", " "))
    assert set(FLAG.findall(text)) <= known | {*TOP_FLAGS, "--nproc-per-node"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_says_what_it_is_and_how_to_run_it_and_is_one(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    place = file.relative_to(ROOT).as_posix()
    ways = re.findall(rf"^#     curate ([\w-]+) (?:--config )?{place}$", text, re.MULTILINE)
    assert text.startswith("# ") and len(ways) == 1
    load(stage_of(ways[0]).config, file=file)


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.stem)
def test_a_pipeline_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert curate.cli.run.read(file)


def test_the_baseline_differs_from_uds_in_its_selector_alone() -> None:
    uds, random = (load(stage_of("train").config, file=ROOT / "configs" / f"{name}.yaml") for name in ("uds", "random"))
    differs = {"name", "selector", "selector_args"}
    assert uds.model_dump(exclude=differs) == random.model_dump(exclude=differs)


def section(name: str, title: str) -> str:
    """The text below a heading of a document, up to the next heading of that level."""
    return TEXTS[name].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(text: str, heading: str) -> set[str]:
    """The names in code in the first column of the table under `heading`."""
    rows = text.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}


def test_the_readme_names_every_selector_and_no_other() -> None:
    assert first_cells(section("README.md", "Selectors"), "name") == set(SELECTORS)
    assert first_cells(section("README.md", "Selectors"), "method") == set(POOL_SELECTORS)


def test_the_readme_is_short_and_leads_to_every_group_of_pages() -> None:
    assert len(README.splitlines()) <= 165 and max(map(len, README.splitlines())) <= 120
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README))
    missing = {page for page in TEXTS if page.startswith("docs/")} - linked
    assert {page for page in missing if page.count("/") == 1} <= {"docs/index.md", "docs/changelog.md"}


def test_the_readme_s_test_command_is_what_ci_runs() -> None:
    assert re.search("^make test$", section("README.md", "Try it"), re.MULTILINE)
    assert re.search("^make test$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_tables_page_names_every_table_and_question_and_no_other() -> None:
    store = section("docs/store/tables.md", "At a glance")
    assert first_cells(store, "table") == {
        *(*NAME_COLUMNS, *ledger_views(), "artifacts"),
        *(view for view, _ in VECTORS.values()),
    }
    assert first_cells(store, "saved question") == {path.stem for path in (ROOT / "store" / "queries").glob("*.sql")}


def test_every_question_is_listed_with_what_it_asks(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    questions = "\n".join(describe(filled)).partition("\n\n")[0]
    for file in (ROOT / "store" / "queries").glob("*.sql"):
        assert saved(filled.root)[file.stem].samefile(file)
        assert re.search(rf"^  {file.stem} +\S.*\?", questions, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if re.search("^```py", text, re.MULTILINE)])
def test_a_python_example_is_python_that_the_stages_accept(name: str) -> None:
    sources = [block for language, block in BLOCK.findall(TEXTS[name]) if language in ("py", "python")]
    for tree in map(ast.parse, sources):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(import_module(node.module or ""), alias.name) for alias in node.names)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "make":
                values = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
                file = values.pop("config", None)
                load(stage_of(ast.literal_eval(node.args[1])).config, file=ROOT / file if file else None, flags=values)
            if isinstance(node, ast.Call) and (method := _method_of_store(node)) is not None:
                arguments = inspect.signature(getattr(UserStore, method)).parameters
                assert {word.arg for word in node.keywords} <= set(arguments), method


def _method_of_store(node: ast.Call) -> str | None:
    """The method that a call `store.method(...)` names; None for another call."""
    function = node.func
    is_store = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
    return function.attr if is_store and function.value.id == "store" else None


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_make_targets_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", BLOCK.sub("", TEXTS[name]))
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []
    files = re.findall(r"`((?:curate|configs|pipelines|tests|benchmarks|store|\.ci)/[\w./-]*)", TEXTS[name])
    missing = [file for file in files if file != "store/" and not (ROOT / file).exists()]
    assert missing == []
    targets = re.findall(r"^([\w.]+|\$\(INSTALLED\)):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    used = re.findall(r"(?:`|^|&& )make ([a-z][\w-]*)", TEXTS[name], re.MULTILINE)
    assert set(used) <= set(targets)


def test_the_layers_drawn_are_the_layers_held() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in tools["contracts"] if contract["type"] == "layers")
    drawn = next(block for _, block in BLOCK.findall(TEXTS["CONTRIBUTING.md"]) if block.startswith("cli →"))
    assert re.findall(r"\w+", drawn) == re.findall(r"\w+", " ".join(layers))
