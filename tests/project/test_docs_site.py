"""The documentation site says what is so: its tutorial and cookbook are run, and its pages cover what there is.

Whether it builds is for `make docs`; nothing here needs mkdocs.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shutil
import sys
import tomllib
import types
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.cli.main import COMMANDS, build_app
from curate.errors import CurateError
from curate.pool_selectors import POOL_SELECTORS
from curate.selectors import SELECTORS
from curate.stages import STAGES, make
from curate.store import Store
from curate.store.catalog.catalog import NAME_COLUMNS
from curate.store.catalog.query import dictionary, ledger_views
from curate.testing import check_selector
from tests.project.test_docs import BLOCK, ROOT, TEXTS, first_cells, typed, words

SITE = ROOT / "docs"
PAGES = {name: text for name, text in TEXTS.items() if name.startswith("docs/")}
STORY = ("docs/getting-started.md", "docs/store/cookbook.md")
"""Pages that are run, one after the other, in one folder."""
BEFORE = (
    "curate demo-model --name demo-model --steps 20 --hidden-size 32 --layers 2 --heads 2",
    "curate demo-pool --name demo-heldout-raw --rows 60 --seed 1 --noise 0 --duplicates 0 --even",
    "curate ingest --data demo=demo-heldout-raw --name demo-heldout",
)
"""What `make demo` leaves, smaller: with the same tokenizer."""
STEP = re.compile(r"(?:^<!-- ([a-z ]+) -->\n)?^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAV = re.compile(r"[\w./-]+\.md")


@dataclass(frozen=True)
class Shown:
    """A command of a page and what the page says that it prints; `exact`: to the letter, on every machine."""

    page: str
    command: Sequence[str]
    output: Sequence[str]
    exact: bool

    def differs(self, printed: str) -> str | None:
        """How what was printed is not what is shown."""
        if not self.output:
            return None
        lines = [line.rstrip() for line in printed.splitlines()]
        shown = [line.rstrip() for line in self.output]
        fits = _same(shown, lines) if self.exact else _alike(shown, lines)
        return None if fits else f"{self.page}: {' '.join(self.command)}\nprints\n{printed}"


class MkDocsLoader(yaml.SafeLoader):
    """The tags that mkdocs reads: `!ENV [NAME, default]` is its default here."""


MkDocsLoader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])


def _same(shown: Sequence[str], lines: Sequence[str]) -> bool:
    """Line by line; a line `…` stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(line + "\n" for line in lines)) is not None


def _alike(shown: Sequence[str], lines: Sequence[str]) -> bool:
    """The same columns and some rows, or the same keys in the same order: numbers are of a model and a machine."""
    if any(line.startswith("──") for line in shown):
        return len(lines) > 2 and lines[0].split() == shown[0].split()
    keys = iter([re.split(r"\s{2,}", line)[0] for line in lines])
    return all(re.split(r"\s{2,}", line)[0] in keys for line in shown if line != "…")


def story(page: str) -> Iterator[Shown | tuple[str, str]]:
    """What a reader of a page types, in order, and the files that they write: (name, content)."""
    waiting: str | None = None
    for mark, language, info, block in STEP.findall(PAGES[page]):
        exact = mark == "exact"
        if found := re.search(r'title="([^"]+)"', info):
            yield found[1], block
        elif language == "sql":
            waiting = block
        elif language == "text" and waiting is not None:
            yield Shown(page, ["query", waiting], block.splitlines(), exact)
            waiting = None
        elif language in ("sh", "console") and mark != "not run":
            for command, output in typed(language, block):
                if command.startswith("curate "):
                    yield Shown(page, words(command), output, exact)
    assert waiting is None, f"{page} shows a question without its answer"


def said_by(args: Sequence[str]) -> str:
    """What a command prints; of one that is refused, the error."""
    with redirect_stdout(StringIO()) as out:
        try:
            build_app().main(list(args), "curate", standalone_mode=False)
        except CurateError as error:
            return f"Error: {error}\n"
    return out.getvalue()


def test_the_tutorial_and_the_cookbook_print_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    (tmp_path / "store").mkdir()
    shutil.copytree(ROOT / "store" / "queries", tmp_path / "store" / "queries")
    for command in BEFORE:
        said_by(words(command))
    differences, checked = [], 0
    for page in STORY:
        for step in story(page):
            if isinstance(step, tuple):
                Path(step[0]).write_text(step[1], encoding="utf-8")
                continue
            printed = said_by(step.command)
            checked += bool(step.output)
            refused = printed.startswith("Error: ") and not (step.output and step.output[0].startswith("Error: "))
            wrong = f"{step.page}: {' '.join(step.command)} is refused: {printed}" if refused else step.differs(printed)
            differences += [wrong] if wrong else []
    assert not differences, "\n\n".join(differences)
    assert checked > 20


def test_what_is_shown_is_compared() -> None:
    exact = Shown("p", ["x"], ["a  1", "…", "c  3"], True)
    assert exact.differs("a  1\nb  2\nc  3\n") is None and exact.differs("a  1\nc  3\n") is None
    assert exact.differs("a  1\nb  2\nc  4\n") and exact.differs("a  2\nc  3\n")
    table = Shown("p", ["x"], ["run  loss", "───  ────", "uds     1"], False)
    assert table.differs("run   loss\n────  ────\nuds   2.33\n") is None
    assert table.differs("run   gain\n────  ────\nuds   2.33\n") and table.differs("run  loss\n───  ────\n")
    keys = Shown("p", ["x"], ["steps  19", "kept   8", "…"], False)
    assert keys.differs("steps  3\nselector  uds\nkept  1\n") is None and keys.differs("kept  8\nsteps  19\n")


def pages_of(nav: Any) -> list[str]:
    return NAV.findall(json.dumps(nav))


def test_every_page_has_its_place_in_the_navigation() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=MkDocsLoader)["nav"]
    assert sorted(pages_of(nav)) == sorted(name.removeprefix("docs/") for name in PAGES)


@pytest.mark.parametrize(("folder", "known"), [("selectors", SELECTORS), ("pool-selectors", POOL_SELECTORS)])
def test_every_selector_has_a_page_that_says_what_it_costs_and_when_to_use_it(
    folder: str, known: dict[str, type]
) -> None:
    assert {path.stem for path in (SITE / folder).glob("*.md")} == {*known, "index"}
    index = PAGES[f"docs/{folder}/index.md"]
    assert first_cells(index, "name" if folder == "selectors" else "method") == set(known)
    for name in known:
        text = PAGES[f"docs/{folder}/{name}.md"]
        assert re.findall(r"^## (Score|Cost|When to use it)$", text, re.MULTILINE) == [
            "Score",
            "Cost",
            "When to use it",
        ]
        assert re.search(rf"^curate .*(?:{name}|configs/)", text, re.MULTILINE), f"no command uses {name}"


@pytest.mark.parametrize("kind", [*SELECTORS.values(), *POOL_SELECTORS.values()], ids=lambda kind: kind.__name__)
def test_every_argument_of_a_selector_is_in_the_docstring_that_its_page_shows(kind: type) -> None:
    own = set(inspect.signature(kind).parameters) - {"info", "seed"}
    assert own <= set(re.findall(r"(\w+): ", inspect.getdoc(kind) or ""))


def test_the_selector_on_the_plugins_page_keeps_the_laws() -> None:
    (source,) = [
        block for language, block in BLOCK.findall(PAGES["docs/integrations/plugins.md"]) if language == "python"
    ]
    names: dict[str, Any] = {}
    exec(source, names)
    assert names["StoredUtility"].features == ("utility",)
    check_selector(names["StoredUtility"])


def test_the_commands_listed_are_the_commands_there_are() -> None:
    assert first_cells(PAGES["docs/commands.md"].replace("## Commands that", "| command |", 1), "command") >= set(
        STAGES
    )
    listed = set(re.findall(r"^\| `([\w-]+)` \|", PAGES["docs/commands.md"], re.MULTILINE))
    assert listed == {*STAGES, *COMMANDS}


def test_the_tables_described_are_those_that_queries_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.ModuleType("latex2mathml.converter")
    stub.convert = str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "latex2mathml", types.ModuleType("latex2mathml"))
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", stub)
    spec = importlib.util.spec_from_file_location("hooks", SITE / "hooks.py")
    assert spec and spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    store = Store(tmp_path / "store")
    make(store, "demo-pool", name="raw", rows=10)
    described = hooks.on_page_markdown(PAGES["docs/store/tables.md"])
    for row in dictionary(store):
        if row["table"] in (*NAME_COLUMNS, *ledger_views(), "artifacts"):
            part = described.partition(f"\n### `{row['table']}`\n")[2].partition("\n### ")[0]
            said = (row["comment"] or "").replace("|", "\\|")
            assert f"| `{row['column']}` |" in part if row["column"] else part, row
            assert said in part or row["table"] == "artifacts", row


KINDS = {
    "curate": r"curate [\w-]+.*",
    "torchrun": r"torchrun (?:--[\w-]+ \S+ )+-m curate [\w-]+.*",
    "python": r"python (?P<script>[\w/]+\.py)(?P<flags>.*)",
    "pip": r'pip install (?:-e )?"?(?:(?P<place>\.(?:/[\w/]+)?)|(?P<package>[\w-]+))(?:\[(?P<extra>\w+)\])?"?'
    r"(?: -c [\w.]+)?(?: #.*)?",
    "make": r"make (?P<target>[\w-]+)(?: #.*)?",
    "git": r"git clone <url> curate && cd curate && make (?P<first>[\w-]+)",
    "activate": r"\. \.venv/bin/activate",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_shell_block_is_of_a_kind_that_is_checked(page: str) -> None:
    """`curate` and torchrun lines are typed in by test_docs; scripts, flags, extras and targets are looked up here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for language, block in BLOCK.findall(PAGES[page]):
        for command, _ in typed(language, block) if language in ("sh", "console") else ():
            found = next((m for kind in KINDS.values() if (m := re.fullmatch(kind, command))), None)
            assert found, f"{command} is of no known kind"
            given = {key: value for key, value in found.groupdict().items() if value}
            assert given.get("extra", "faiss") in project["optional-dependencies"]
            assert given.get("package", project["name"]) == project["name"]
            assert all(f"\n{given[key]}:" in makefile for key in ("target", "first") if key in given)
            assert (ROOT / given.get("place", ".")).is_dir()
            if script := given.get("script"):
                source = (ROOT / script).read_text(encoding="utf-8")
                assert all(f'"{flag}"' in source for flag in re.findall(r"--[\w-]+", given.get("flags", "")))


def test_what_pages_take_from_the_code_is_there() -> None:
    for text in PAGES.values():
        for place in re.findall(r'^--8<-- "([^"]+)"', text, re.MULTILINE):
            assert (ROOT / place).is_file(), place
        for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
            assert _defined(name), f"{name} is nowhere in the code"


def _defined(name: str) -> bool:
    """Whether a dotted name is a module of ours, or defined in one; nothing is imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:length])
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if file.is_file():
            rest = parts[length:]
            body = ast.parse(file.read_text(encoding="utf-8")).body
            made = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
            imported = {a.asname or a.name for node in body if isinstance(node, ast.ImportFrom) for a in node.names}
            return not rest or rest[0] in made | imported
    return False
