"""Selectors of other packages are found by name and imported when asked for; their errors name the package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from curate import Store, make
from curate.errors import ConfigError
from curate.pool_selectors import make_pool_selector
from curate.selectors import RunInfo, check_args, make_selector
from curate.testing import check_selector
from tests.support.paths import ROOT

TEMPLATE = ROOT / "examples" / "selector_package"
RUN = RunInfo(vocab_size=50, max_length=16)


def entry_points(pyproject: Path) -> str:
    """Return a package's entry points as a wheel has them."""
    groups = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["entry-points"]
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`installed("pkg", entries, code)`: a package with entry points, as an installer leaves it on the path."""

    def install(package: str, entries: str, code: str | None = None) -> Path:
        site = tmp_path / f"site-{package}"
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        if code is not None:
            (site / f"{package}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, package, raising=False)
        return site

    return install


@pytest.fixture
def template(installed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example package, installed."""
    monkeypatch.syspath_prepend(TEMPLATE)
    monkeypatch.delitem(sys.modules, "curate_closest", raising=False)
    return installed("curate_closest_template", entry_points(TEMPLATE / "pyproject.toml"))


def test_the_template_is_found_by_name_with_its_arguments_checked(template: Path) -> None:
    selector = make_selector("closest", {"aim": 1.5}, RUN)
    assert type(selector).__name__ == "Closest" and selector.aim == 1.5
    assert type(make_pool_selector("shortest", {})).__name__ == "Shortest"
    check_selector("closest", {"aim": 0.5})
    with pytest.raises(ConfigError, match=r"no argument 'aims' in selector_args\. Did you mean 'aim'"):
        check_args("closest", {"aims": 1})
    with pytest.raises(ConfigError, match="Did you mean 'closest'"):
        check_args("closet", {})


def test_the_tests_of_the_template_pass(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TEMPLATE / "tests")
    tests = import_module("test_closest")
    names = [name for name in vars(tests) if name.startswith("test_")]
    assert len(names) >= 2
    for name in names:
        getattr(tests, name)()


def test_runs_and_subsets_are_made_with_the_templates_selectors(
    template: Path, store: Store, tiny: str, pool_file: Path
) -> None:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    shape: dict[str, Any] = {"candidates": 8, "keep": 2, "max_steps": 2, "max_length": 64}
    make(store, "train", name="run", pool="pool", model=tiny, selector="closest", selector_args={"aim": 5.9}, **shape)
    rows = store.query("SELECT kept, loss, parts['away'] AS away FROM ledger WHERE step = 1").to_pylist()
    nearest = sorted(rows, key=lambda row: abs(row["loss"] - 5.9))
    assert [row["kept"] for row in nearest] == [True] * 2 + [False] * 6
    assert all(row["away"] == pytest.approx(abs(row["loss"] - 5.9)) for row in rows)
    make(store, "select", name="short", pool="pool", method="shortest", budget=5)
    assert store.get("short").rows == 5


def test_nothing_is_imported_before_it_is_asked_for(installed: Callable[..., Path]) -> None:
    site = installed("loud", "[curate.selectors]\nloud = loud:Loud\n", "print('I am here')\n")
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from curate.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print(*[name for name in ("loud", "importlib.metadata", "torch") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "I am here" not in done.stdout and done.stderr.split() in ([], ["importlib.metadata"])
    make_selector("random", {}, RUN)
    assert "loud" not in sys.modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere_to_be_found\n", "of the package broken cannot be imported .* ModuleNotFoundError"),
        ("Mine = 3\n", "of the package broken is not a curate.selectors.Selector: broken:Mine must be a subclass"),
        ("", "AttributeError.* Update broken, or uninstall it"),
        (None, "of the package broken cannot be imported from broken:Mine"),
    ],
)
def test_a_package_that_does_not_work_is_named(installed: Callable[..., Path], code: str | None, message: str) -> None:
    installed("broken", "[curate.selectors]\nmine = broken:Mine\n", code)
    with pytest.raises(ConfigError, match=message):
        make_selector("mine", {}, RUN)
    assert make_selector("random", {}, RUN), "other selectors still work"


def test_two_packages_that_provide_the_same_name_are_named(installed: Callable[..., Path]) -> None:
    for package in ("one", "two"):
        installed(package, "[curate.pool_selectors]\nmine = here:Mine\n")
    with pytest.raises(ConfigError, match="The packages one and two each provide a method 'mine'"):
        make_pool_selector("mine", {})


def test_ours_come_first(installed: Callable[..., Path]) -> None:
    installed("thief", "[curate.selectors]\nuds = thief:Mine\n", "raise SystemExit\n")
    assert type(make_selector("uds", {}, RUN)).__module__ == "curate.selectors.uds"
