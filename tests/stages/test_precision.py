"""`--dtype auto` takes float32 on a slow CPU; what was begun in another data type is continued in that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.lm import precision
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.stages import build_config, is_made, make
from curate.store import Artifact, Store


@pytest.fixture
def half(tiny: str, tmp_path: Path) -> str:
    """The tiny model with bfloat16 weights."""
    folder = shutil.copytree(tiny, tmp_path / "half")
    load_model(ModelOptions(tiny, dtype="bfloat16")).save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


@pytest.fixture
def pooled(store: Store, pool_file: Path) -> Store:
    make(store, "ingest", name="pool", data=(str(pool_file),))
    return store


def on(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have units for bfloat16 (`new`), or not (`old`)."""
    monkeypatch.setattr(precision, "cpu_has_units", lambda name: machine == "new")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def embed(store: Store, model: str, name: str, **options: Any) -> Artifact:
    return make(store, "embed", name=name, pool="pool", model=model, signals=("loss",), **options)


def test_a_cpu_without_units_takes_float32_and_says_so(
    pooled: Store, half: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    on("old", monkeypatch)
    auto = embed(pooled, half, "auto")
    assert auto.config["dtype"] == "float32"
    assert caplog.text.count("has no units for bfloat16, so --dtype auto takes float32") == 1
    assert embed(pooled, half, "given", dtype="float32").path == auto.path
    explicit = embed(pooled, half, "explicit", dtype="bfloat16")
    assert explicit.path != auto.path and explicit.config["dtype"] == "bfloat16"


def test_a_cpu_with_units_keeps_the_data_type(pooled: Store, half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on("new", monkeypatch)
    assert embed(pooled, half, "auto").config["dtype"] == "auto"


def test_a_float32_model_is_as_before_on_every_machine(
    pooled: Store, tiny: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on("old", monkeypatch)
    first = embed(pooled, tiny, "a")
    on("new", monkeypatch)
    assert first.config["dtype"] == "auto" and embed(pooled, tiny, "b").path == first.path
    assert "units" not in caplog.text


@pytest.mark.parametrize(("first", "then", "dtype"), [("new", "old", "auto"), ("old", "new", "float32")])
def test_what_exists_or_was_begun_on_another_machine_is_continued_in_its_data_type(
    pooled: Store,
    half: str,
    first: str,
    then: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from curate.training.trainer import CheckpointCallback

    caplog.set_level("INFO")
    options: dict[str, Any] = {"pool": "pool", "model": half, "selector": "random", "candidates": 4, "keep": 2}
    options |= {"max_steps": 3, "save_steps": 1, "max_length": 64, "name": "run"}

    on(first, monkeypatch)
    saved = CheckpointCallback.on_save

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        saved(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointCallback, "on_save", stop)
    with pytest.raises(KeyboardInterrupt):
        make(pooled, "train", **options)
    monkeypatch.setattr(CheckpointCallback, "on_save", saved)
    (draft,) = pooled.drafts()
    on(then, monkeypatch)
    run = make(pooled, "train", **options)
    assert run.fingerprint == draft.fingerprint and run.config["dtype"] == dtype
    assert "'run' was begun in" in caplog.text
    assert is_made(pooled, "train", build_config("train", options))
    assert make(pooled, "train", **options).path == run.path
