"""The types of keywords are those of the configs, and a type checker finds a misspelt or mistyped one."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from curate import Store
from curate.api import options
from curate.api.methods import config_of, keywords_of, type_of
from curate.errors import ConfigError
from curate.stages import STAGES
from tests.api.option_types import FOLDER, class_name, generated
from tests.support.paths import ROOT

METHODS = [*(stage.replace("-", "_") for stage in STAGES), "inspect", "doctor", "resume", "run"]


def test_the_generated_types_are_up_to_date() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert texts == generated(), "run python -m tests.api.option_types"


@pytest.mark.parametrize("method", METHODS)
def test_a_signature_is_the_config_and_the_types(method: str) -> None:
    parameters = inspect.signature(getattr(Store, method)).parameters
    typed = typing.get_type_hints(getattr(options, class_name(method.replace("_", "-"))), include_extras=True)
    assert {*typed} <= {*parameters} and {*keywords_of(method)} <= {*parameters}
    named = inspect.signature(inspect.getattr_static(Store, method).function).parameters
    for name, field in keywords_of(method).items():
        if name not in named:
            required = parameters[name].default is inspect.Parameter.empty
            assert required == field.is_required() == (typing.get_origin(typed[name]) is typing.Required)
            assert parameters[name].annotation == type_of(name, config_of(method))


@pytest.mark.parametrize("method", METHODS)
def test_help_describes_every_option(method: str) -> None:
    text = inspect.getdoc(getattr(Store, method)) or ""
    own = inspect.signature(inspect.getattr_static(Store, method).function).parameters
    for name, field in keywords_of(method).items():
        assert f"    {name}: {'' if name in own else field.description}" in text


def test_a_misspelt_option_of_any_method_suggests_the_nearest(store: typing.Any) -> None:
    opened = Store(store.root)
    for call, nearest in (
        (lambda: opened.train(candidate=3), "candidates"),
        (lambda: opened.inspect(modle="m"), "model"),
        (lambda: opened.report("run", titel="x"), "title"),
        (lambda: opened.query("SELECT 1", timout=3), "timeout"),
        (lambda: opened.resume("run", trust_remote_cod=True), "trust_remote_code"),
        (lambda: opened.embed(dryrun=True), "dry_run"),
    ):
        with pytest.raises(ConfigError, match=f"has no option .* Did you mean '{nearest}'"):
            call()
    with pytest.raises(ConfigError, match=r"^train needs pool=\.\.\.: Name of the pool to train on"):
        opened.train(name="x", model="m")
    with pytest.raises(AttributeError, match="'Store' object has no attribute 'trian'"):
        _ = opened.trian


def test_the_types_pass_mypy_and_find_what_is_wrong(tmp_path: Path) -> None:
    code = (
        "from typing import Unpack\n"
        "from curate.api.options import TrainOptions\n"
        "def train(**options: Unpack[TrainOptions]) -> None: ...\n"
        "train(name='x', pool='p', model='m', candidates=4)\n"
        "train(name='x', pool='p', model='m', candidate=4)\n"
        "train(name='x', pool='p', model='m', candidates='4')\n"
        "train(name='x', model='m')\n"
    )
    (tmp_path / "snippet.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-site-packages"]
    command += ["--ignore-missing-imports", f"--cache-dir={tmp_path / 'cache'}", "--config-file="]
    skipped = [*command, "--follow-imports=skip", str(tmp_path / "snippet.py"), *map(str, FOLDER.glob("*.py"))]
    done = subprocess.run(skipped, cwd=ROOT, capture_output=True, text=True, check=False)
    found = sorted(line.partition("snippet.py:")[2] for line in done.stdout.splitlines() if "error:" in line)
    assert [line.partition(":")[0] for line in found] == ["5", "6", "7"], done.stdout + done.stderr
    assert 'Did you mean "candidates"' in found[0] or "candidate" in found[0]
