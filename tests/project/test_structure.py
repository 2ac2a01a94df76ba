"""The folders of curate: no circle of imports, none between folders, no folder that cannot be read at a glance.

Run it as a program for the figures: python -m tests.project.test_structure
"""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MOST_MODULES = 15
LONG, TOO_LONG = 300, 450
"""Lines of a file: above the first it is named in a warning, above the second it is an error."""

Graph = Mapping[str, frozenset[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of a package; a folder's `__init__` keeps that name."""
    return {
        ".".join([package.name, *path.relative_to(package).with_suffix("").parts]): path
        for path in sorted(package.rglob("*.py"))
    }


@functools.cache
def imports_of(package: Path) -> Graph:
    """Module -> the modules of the package that it imports anywhere: at its top, in functions, for types only."""
    modules = modules_of(package)
    return {name: frozenset(_imported(name, path, modules)) - {name} for name, path in modules.items()}


def _imported(name: str, path: Path, modules: Mapping[str, Path]) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name, modules)
        elif isinstance(node, ast.ImportFrom):
            home = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _module(f"{base}.{alias.name}", modules) or _module(base, modules)


def _module(dotted: str, modules: Mapping[str, Path]) -> list[str]:
    return [name for name in (dotted, f"{dotted}.__init__") if name in modules]


def boxes_of(graph: Graph, folder: str) -> Graph:
    """The same imports between the entries of one folder: a file is a box, a folder below it another."""
    depth = folder.count(".") + 1

    def box(module: str) -> str | None:
        parts = module.split(".")
        return ".".join(parts[: depth + 1]) if module.startswith(f"{folder}.") else None

    boxes: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if (source := box(module)) is not None:
            boxes.setdefault(source, set()).update(
                target for other in imported if (target := box(other)) is not None and target != source
            )
    return {name: frozenset(targets) for name, targets in boxes.items()}


def circle_in(graph: Graph) -> list[str] | None:
    """Modules that import each other in a circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return None


def folders_of(package: Path) -> dict[str, list[Path]]:
    """Dotted folder -> its modules, without those of the folders below it."""
    folders: dict[str, list[Path]] = {}
    for name, path in modules_of(package).items():
        folders.setdefault(name.rpartition(".")[0], []).append(path)
    return folders


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CURATE = ROOT / "curate"
FOLDERS = folders_of(CURATE)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle_in(imports_of(CURATE)) is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folders_import_each_other_in_a_circle(folder: str) -> None:
    assert circle_in(boxes_of(imports_of(CURATE), folder)) is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_holds_few_modules(folder: str) -> None:
    assert len(FOLDERS[folder]) <= MOST_MODULES


@pytest.mark.parametrize("path", [*modules_of(CURATE).values(), *sorted((ROOT / "tests").rglob("*.py"))], ids=named)
def test_a_file_is_short_enough_to_be_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= TOO_LONG
    if lines > LONG:
        warnings.warn(f"{path.relative_to(ROOT)} has {lines} lines: is it two modules?", stacklevel=1)


def package(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "toy"


CIRCLES = {
    "at the top": {"a.py": "from .b import x\n", "b.py": "from . import a\n"},
    "in a function": {"a.py": "from .b import x\n", "b.py": "def f():\n    import toy.a\n"},
    "for types only": {"a.py": "import toy.b\n", "b.py": "if TYPE_CHECKING:\n    from .a import X\n"},
    "through a package": {"a.py": "from . import x\n", "__init__.py": "from .a import x\n"},
}


@pytest.mark.parametrize("files", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_that_is_put_in_is_found(files: dict[str, str], tmp_path: Path) -> None:
    assert circle_in(imports_of(package(tmp_path, files))) is not None


def test_a_circle_of_folders_is_found_where_no_files_make_one(tmp_path: Path) -> None:
    files = {"f/a.py": "from ..g import c\n", "f/b.py": "", "g/c.py": "", "g/d.py": "from ..f.b import x\n"}
    graph = imports_of(package(tmp_path, {**files, "f/__init__.py": "", "g/__init__.py": ""}))
    assert circle_in(graph) is None
    assert circle_in(boxes_of(graph, "toy")) is not None


def test_what_makes_no_circle_is_none(tmp_path: Path) -> None:
    files = {"a.py": "import os\nfrom .b import x\n", "b.py": "from .f import c\n", "f/__init__.py": "", "f/c.py": ""}
    graph = imports_of(package(tmp_path, files))
    assert circle_in(graph) is None and circle_in(boxes_of(graph, "toy")) is None
    assert graph["toy.a"] == {"toy.b"} and graph["toy.b"] == {"toy.f.c"}


LINTER = Path(sys.executable).with_name("lint-imports")


@pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")
def test_an_import_that_runs_upward_breaks_the_layers(tmp_path: Path) -> None:
    copy = tmp_path / "curate"
    for name, path in modules_of(CURATE).items():
        target = copy.joinpath(*name.split(".")[1:]).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        upward = "\nfrom ..training import step\n" if name == "curate.signals.budget" else ""
        target.write_text(path.read_text(encoding="utf-8") + upward, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run([LINTER, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "curate.signals is not allowed to import curate.training" in done.stdout


def main() -> None:
    """Print the figures: modules in each folder, circles of files and of folders."""
    graph = imports_of(CURATE)
    for folder, paths in FOLDERS.items():
        circle = circle_in(boxes_of(graph, folder))
        print(f"{len(paths):>3} modules  {folder:<32} {'circle: ' + ' > '.join(circle) if circle else ''}")
    print(f"{len(graph)} modules, {sum(map(len, graph.values()))} imports; circle of files: {circle_in(graph)}")


if __name__ == "__main__":
    main()
