"""Selectors of other packages are found by name and imported when asked for; their errors name the package."""

from __future__ import annotations

import json
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


# The contract of a selector


CONTRACT = """
import torch
from curate.selectors import CandidateBatch, Scores, Selector
from curate.signals import Loss


class Quiet(BaseException):
    pass


class Mine(Selector):
    signals = {"loss": Loss()}

    def score(self, batch):
        print("to stdout")
        n = len(batch)
        total = torch.arange(n, dtype=torch.float64)
        BODY
"""


@pytest.fixture(scope="module")
def pool_of_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file for runs of a few steps."""
    folder = tmp_path_factory.mktemp("contract")
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}."} for n in range(16)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return Scores(total[:-1])",
            "as total a tensor of shape (7,) and type float64 instead of a tensor of 8 numbers",
        ),
        ("return Scores(total[None])", "as total a tensor of shape (1, 8)"),
        ("return Scores(total.tolist())", "as total a list of length 8 instead of a tensor of 8 numbers"),
        ("return Scores(None)", "as total None instead of a tensor"),
        ("return None", "returned None instead of a Scores"),
        ("return total", "returned a tensor of shape (8,) and type float64 instead of a Scores"),
        ("return Scores(total, {'away': total[:3]})", "as part 'away' a tensor of shape (3,)"),
        ("return Scores(total, [total])", "as parts a list of length 1 instead of a mapping"),
        ("return Scores(total, {}, total[:2])", "as weights a tensor of shape (2,)"),
        ("return Scores(total * torch.nan)", "gave no candidate a score that is a number"),
        ("return Scores(total + torch.inf)", "gave scores that are not finite to candidates that would be kept: inf"),
        ("return Scores(total, {}, -total)", "gave negative weights: -4, -5, -6, ... (4 values)"),
        ("return Scores(total, {}, total * 0)", "gave all kept samples the weight 0"),
        ("return Scores(total, {}, total * torch.nan)", "gave weights that are not finite: nan"),
        ("raise ValueError('bad \\x1b[31m thing')", r"failed in score(): ValueError: bad \x1b[31m thing"),
        ("raise SystemExit(0)", "failed in score(): it tried to end the process with code 0"),
        ("raise Quiet('gone')", "failed in score(): Quiet: gone"),
    ],
)
def test_a_selector_that_breaks_its_contract_is_named_with_what_it_returned(
    installed: Callable[..., Path], curate: Callable[..., Any], pool_of_tiny: Path, tiny: str, body: str, said: str
) -> None:
    installed("broken", "[curate.selectors]\nmine = broken:Mine\n", CONTRACT.replace("BODY", body))
    assert curate("ingest", "--data", str(pool_of_tiny / "pool.jsonl"), "--name", "pool").code == 0
    options = ["--candidates", "8", "--keep", "4", "--max-steps", "2", "--max-length", "64"]
    result = curate("train", "--pool", "pool", "--model", tiny, "--selector", "mine", "--name", "run", *options)
    assert result.code == 1 and said in result.err, result.err
    assert "selector 'mine' of the package broken 1.0" in result.err
    assert "Traceback" not in result.err and "\x1b" not in result.err
    assert "learning rate and run again" not in result.err and "to stdout" not in result.out


@pytest.mark.parametrize(
    "code", ["raise SystemExit(0)", "class Quiet(BaseException):\n    pass\nraise Quiet", "import sys\nsys.exit('bye')"]
)
def test_a_package_that_ends_the_process_when_it_is_imported_ends_no_command(
    installed: Callable[..., Path], curate: Callable[..., Any], tiny: str, code: str
) -> None:
    package = f"leaving{len(code)}"
    installed(package, f"[curate.selectors]\nmine = {package}:Mine\n", code + "\n")
    result = curate("train", "--pool", "pool", "--model", tiny, "--selector", "mine", "--name", "run")
    assert result.code == 1 and f"of the package {package} cannot be imported from {package}:Mine" in result.err
    assert f"Loading the selector 'mine' of the package {package} 1.0, from {package}:Mine." in result.err


def test_a_number_that_would_overflow_in_a_score_is_an_error(
    curate: Callable[..., Any], pool_of_tiny: Path, tiny: str
) -> None:
    assert curate("ingest", "--data", str(pool_of_tiny / "pool.jsonl"), "--name", "pool").code == 0
    options = ["--candidates", "8", "--keep", "4", "--max-steps", "2", "--max-length", "64", "--set"]
    options += ["selector_args.alpha=1.0e+308"]
    result = curate("train", "--pool", "pool", "--model", tiny, "--selector", "uds", "--name", "run", *options)
    assert result.code == 1 and "Selector 'uds': alpha is a finite number" in result.err, result.err
    assert "learning rate and run again" not in result.err


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "raise ValueError('bad')", "raise TypeError('bad')"])
def test_a_pool_selector_that_fails_is_named(
    installed: Callable[..., Path], curate: Callable[..., Any], pool_of_tiny: Path, body: str
) -> None:
    code = f"""
from curate.pool_selectors import PoolSelector

class Mine(PoolSelector):
    def rank(self, candidates, target, oracle, remaining):
        {body}
"""
    installed("badpool", "[curate.pool_selectors]\nmine = badpool:Mine\n", code)
    assert curate("ingest", "--data", str(pool_of_tiny / "pool.jsonl"), "--name", "pool").code == 0
    result = curate("select", "--pool", "pool", "--method", "mine", "--budget", "3", "--name", "s")
    assert result.code == 1 and "The method 'mine' of the package badpool 1.0 failed in rank()" in result.err
