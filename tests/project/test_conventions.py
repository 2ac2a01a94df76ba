"""The shape of the code: what import-linter cannot see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from curate.config import Config
from curate.stages import STAGES, stage_of
from curate.stages.stage import Stage
from tests.support.paths import ROOT

MODULES = sorted((ROOT / "curate").rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_why_it_exists_and_has_a_name_that_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert not re.search(r"utils|helpers|common|manager|base_", path.stem)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_store_reads_and_writes_parquet(path: Path) -> None:
    if (ROOT / "curate" / "store") not in path.parents:
        assert not re.search(r"pyarrow\.parquet|from pyarrow import .*parquet", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled_and_no_remote_code_is_trusted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (pickle|dill|joblib|cloudpickle)\b", text, re.MULTILINE)
    assert "trust_remote_code=True" not in text


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_config_a_run_and_examples(stage: str) -> None:
    made = stage_of(stage)
    assert isinstance(made, Stage) and issubclass(made.config, Config) and callable(made.run)
    lines = made.examples.strip().splitlines()
    assert lines[0].startswith(f"curate {stage} ") and all(
        re.match(r"(torchrun .* -m )?curate |  +", line) for line in lines
    )
    silent = [name for name, field in made.config.model_fields.items() if not field.description]
    assert silent == []


@pytest.mark.parametrize(
    "package", ["curate", "curate.integrations", "curate.selectors", "curate.pool_selectors", "curate.testing"]
)
def test_every_public_name_of_a_package_can_be_imported(package: str) -> None:
    module = import_module(package)
    assert module.__all__ and all(getattr(module, name) is not None for name in module.__all__)


def test_stages_import_nothing_slow_before_they_run() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("stages", "executors")
        for path in (ROOT / "curate" / folder).rglob("*.py")
    ]
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "datasets", "faiss", "sklearn", "peft", "ray"}.isdisjoint(loaded)


@pytest.mark.parametrize("stage", STAGES)
def test_the_flags_of_a_stage_do_not_collide(stage: str) -> None:
    from curate.cli.main import stage_command

    flags = [flag for parameter in stage_command(stage).params for flag in (*parameter.opts, *parameter.secondary_opts)]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("stage", STAGES)
def test_the_examples_of_a_stage_are_understood(stage: str) -> None:
    """Every flag in --help's examples exists."""
    from curate.cli.main import stage_command

    flags = {flag for parameter in stage_command(stage).params for flag in (*parameter.opts, *parameter.secondary_opts)}
    lines = [
        line.partition("curate ")[2] for line in stage_of(stage).examples.splitlines() if f"curate {stage} " in line
    ]
    used = {flag for line in lines for flag in re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", line)}
    assert used <= flags


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_can_be_imported(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if not name.endswith("__main__"):
        import_module(name)


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    machine = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|private)/[\w.]")
    copied = ROOT / "curate" / "lm" / "tokens" / "training_templates"  # texts of others, unchanged
    texts = {path: path.read_bytes() for path in tracked() if path != Path(__file__) and copied not in path.parents}
    found = [
        p.name for p, text in texts.items() if b"\0" not in text and machine.search(text.decode("utf-8", "replace"))
    ]
    assert found == []


def test_constraints_can_be_installed_by_everybody() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "torch==2.13.0\n" in text
    assert not re.search(r"\+cpu|file:|https?:|@ ", text)
