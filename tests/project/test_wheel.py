"""What users install: the wheel has all that the package needs, and works with no clone around.

The wheel is built from this tree without an index, and put into an environment of its own, which borrows the installed
dependencies and nothing else. `CURATE_WHEEL` names one that is built already.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from curate.version import DISTRIBUTION
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("build", "hatchling", "pip")),
    reason="build, hatchling and pip make and install the wheel: pip install build hatchling",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    if given := os.environ.get("CURATE_WHEEL"):
        return (ROOT / given).resolve()
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("curate_sft-*.whl"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode("utf-8"))


def tracked(*places: str) -> set[str]:
    """Files below these places that git knows, or would take up."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *places]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this tree is no git clone")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_every_file_of_the_package_is_in_the_wheel_and_no_other(wheel: Path) -> None:
    inside = {name for name in names_in(wheel) if not name.startswith(("curate/_shipped/", "curate_sft-"))}
    assert inside == tracked("curate")


def test_pipelines_configs_and_questions_are_in_the_wheel(wheel: Path) -> None:
    homes = {"configs": "configs", "pipelines": "pipelines", "store/queries": "queries"}
    expected = {
        f"curate/_shipped/{inside}{name.removeprefix(place)}"
        for place, inside in homes.items()
        for name in tracked(place)
    }
    shipped = {name for name in names_in(wheel) if name.startswith("curate/_shipped/")}
    assert shipped - {name for name in shipped if name.startswith(DOCS)} == expected


DOCS = "curate/_shipped/docs/"
SITE = ROOT / "site"
"""The documentation, where `make docs` has built it."""
MOST_DOCS = 3_000_000
"""Compressed bytes that the documentation may add to the wheel."""


def test_the_documentation_is_in_the_wheel_where_it_is_built_and_adds_little(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {each.filename.removeprefix(DOCS): each for each in archive.infolist() if DOCS in each.filename}
    assert bool(inside) or not (SITE / "index.html").is_file()
    if "CURATE_WHEEL" not in os.environ:  # another one is of another time
        assert inside.keys() == {each.relative_to(SITE).as_posix() for each in SITE.rglob("*") if each.is_file()}
    assert sum(each.compress_size for each in inside.values()) <= MOST_DOCS
    assert not [name for name in inside if name.endswith(".map")]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    about = metadata_of(wheel)
    assert (about["Name"], about["Requires-Python"], about["License-Expression"]) == (
        DISTRIBUTION,
        ">=3.11",
        "Apache-2.0",
    )
    classifiers = about.get_all("Classifier") or []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert about["Description-Content-Type"] == "text/markdown"
    readme = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line]
    shown = [line for line in str(about.get_payload()).splitlines() if line]
    assert shown == [line for line in readme if not line.startswith("![")], "without pictures: hatch_build.py"
    assert "curate-0" not in str(about.get_all("Project-URL")), "no address is claimed that nobody keeps"
    assert any(name.endswith("licenses/LICENSE") for name in names_in(wheel))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and finds the dependencies where the tests have them."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--disable-pip-version-check", str(wheel)], check=True)
    (home,) = place.glob("lib/python*/site-packages")
    # a folder that a .pth names is searched, and its own .pth files are not read: the editable curate stays away
    (home / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return place / "bin"


@pytest.fixture
def type_in(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command of that environment in an empty folder, and gives what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def type_in(*command: str, code: int = 0) -> str:
        program, *args = command
        done = subprocess.run(
            [installed / program, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    return type_in


def test_the_installed_wheel_runs_from_an_empty_folder(type_in: Callable[..., str], installed: Path) -> None:
    assert type_in("curate", "--version") == type_in("python", "-m", "curate", "--version")
    assert "curate ingest --help" in " ".join(type_in("curate", "--help").split())
    found = type_in("python", "-c", "import curate; print(curate.__file__)")
    assert Path(found.strip()).is_relative_to(installed.parent), "the wheel, not the clone"
    assert "Did you mean 'demo'?" in type_in("curate", "run", "demmo", code=1)
    checked = "from pathlib import Path; from curate.cli.run import read; print(*(e.label for e in read(Path({!r}))))"
    for pipeline in ("demo", "uds", "pipelines/targeted.yaml", "compare_selectors", "curriculum"):
        assert type_in("python", "-c", checked.format(pipeline))
    assert "nothing named 'pool'" in type_in("curate", "train", "--config", "configs/uds.yaml", code=1)


def test_the_installed_documentation_is_found_without_a_clone(type_in: Callable[..., str], wheel: Path) -> None:
    if f"{DOCS}index.html" not in names_in(wheel):
        assert "The documentation is not built here: install a wheel" in type_in("curate", "docs", "--path", code=1)
        return
    page = Path(type_in("curate", "docs", "selectors/uds", "--path").strip())
    assert "_shipped" in page.parts and "<h1" in page.read_text(encoding="utf-8")


SMALL = (
    *("demo-pool.rows=200", "demo-heldout-raw.rows=40", "demo-wanted-raw.rows=200", "demo-model.steps=3"),
    *("demo-reference.max_steps=2", "demo-compared.train.max_steps=2", "demo-compared.eval_steps=1"),
    "demo-compared.seeds=[0]",
)


def test_the_installed_wheel_goes_the_whole_way(type_in: Callable[..., str], tmp_path: Path) -> None:
    said = type_in("curate", "run", "demo", *(part for pair in SMALL for part in ("--set", pair)))
    assert re.search(r"dataset demo-curated +exports/demo-curated", said)
    assert (tmp_path / "exports" / "demo-curated" / "README.md").is_file()
    asked = type_in("python", "-m", "curate", "query", "compare_runs", "--param", "runs=demo-*", "--format", "csv")
    assert "demo-compared-random-s0" in asked and "demo-compared-rho-s0" in asked
    assert "most_kept" in type_in("curate", "query", "--list")
    assert "demo-compared-rds-s0" in type_in("curate", "status")
