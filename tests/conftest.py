"""What every test has: a quiet, offline environment, an empty store, and a small stage to play with."""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0"}
os.environ.pop("CURATE_STORE", None)

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pytest
from pydantic import Field

from curate.config import EXTERNAL, NOT_HASHED, Config, Ref
from curate.log import LOGGER
from curate.stages import STAGES
from curate.stages.stage import Stage
from curate.store import Draft, Store

pytest_plugins = [
    "tests.support.catalogues",
    "tests.support.children",
    "tests.support.encoders",
    "tests.support.garbage",
    "tests.support.memory_folder",
    "tests.support.models",
    "tests.support.ranks",
    "tests.support.report_pages",
    "tests.support.schedule",
    "tests.support.slurm",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class ToyConfig(Config):
    """A config with a field of every kind that flags are made from."""

    rows: int = Field(3, gt=0, description="Rows.")
    rate: float = Field(0.5, description="Rate.")
    shuffle: bool = Field(True, description="Shuffle.")
    kind: Literal["max_loss", "uds"] = Field("uds", description="Kind.")
    layers: tuple[int, ...] = Field((), description="Layers.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options.")
    words: dict[str, str] = Field(default_factory=dict, description="Words.")
    limit: int | str | None = Field(None, description="Limit.")
    keep: int = Field(1, description="Kept.", json_schema_extra={"flag": "as"})
    model: Annotated[str | None, EXTERNAL] = Field(None, description="Model.")
    data: Annotated[tuple[str, ...], EXTERNAL] = Field((), description="Data.")
    parent: Ref | None = Field(None, description="Parent.")
    workers: Annotated[int, NOT_HASHED] = Field(1, description="Workers.")


def run_toy(config: ToyConfig, inputs: Any, draft: Draft) -> None:
    for shard in draft.pending(config.rows):
        if config.options.get("fail_at") == shard and not (draft.path / "second").exists():
            (draft.path / "second").touch()
            raise KeyboardInterrupt
        draft.write(shard, pa.table({"sample_id": [f"s{shard}"]}))
    facts = {"sample_id": [f"s{i}" for i in range(config.rows)], "position": list(range(config.rows))}
    draft.add("samples", pa.table(facts))
    draft.rows = config.rows
    draft.summary = {"rows": config.rows, "rate": config.rate, "parts": {"kept": config.keep}}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stage `toy` beside the real ones."""
    module = types.ModuleType("curate.stages.toy")
    examples = "curate toy --name t\ncurate toy --name t --rows 5\n"
    stage = Stage(ToyConfig, lambda config, inputs, draft: vars(module)["run"](config, inputs, draft), examples)
    vars(module).update(STAGE=stage, EXAMPLES=examples, run=run_toy)  # a test may set another `run`
    monkeypatch.setitem(STAGES, "toy", "Make rows of nothing.")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def curate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """`curate("toy", "--name", "t")`: the command line in this process, in an empty folder with its own ./store."""
    from curate.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", True)

    def call(*args: str) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main(args)
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return call
