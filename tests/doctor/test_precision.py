"""Doctor compares the time of a step, and on request the kept samples, in half precision with those in float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.doctor.devices import Device
from curate.doctor.plan import PlannedRun
from curate.doctor.precision import compare_kept, time_of_step
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.stages import make
from curate.store import Store

CPU = Device("cpu", "cpu", 1 << 34, 1 << 34)
SMALL: dict[str, Any] = {"candidates": 8, "keep": 2, "max_length": 64}


def clock_of(float32: float, bfloat16: float) -> Callable[[], float]:
    """Return a clock that says that steps take these seconds, as each step reads it twice."""
    readings = [0.0, float32] * 4 + [0.0, bfloat16] * 4
    return iter(readings).__next__


@pytest.mark.parametrize(
    ("seconds", "options", "verdict", "words"),
    [
        ((1.0, 5.0), {"dtype": "bfloat16"}, "note", "bfloat16 takes 5.0 times as long as in float32"),
        ((1.0, 5.0), {"bf16": True}, "note", "bfloat16 takes 5.0 times"),
        ((1.0, 5.0), {"dtype": "float32"}, "fine", "bfloat16 takes 5.0 times"),
        ((4.0, 2.0), {"dtype": "float32"}, "note", "float32 takes 2.0 times as long as in bfloat16"),
        ((4.0, 2.0), {"dtype": "bfloat16"}, "fine", "float32 takes 2.0 times"),
        ((1.0, 1.1), {"dtype": "bfloat16"}, "fine", "bfloat16 takes 1.1 times"),
    ],
)
def test_the_faster_data_type_is_named_with_the_ratio(
    tiny: str, seconds: tuple[float, float], options: dict[str, Any], verdict: str, words: str
) -> None:
    config = PlannedRun(model=tiny, **options, **SMALL)
    (finding,) = time_of_step(config, tiny, CPU, clock_of(*seconds))
    assert finding.verdict == verdict and words in finding.message
    assert finding.details["ratio"] == pytest.approx(seconds[1] / seconds[0])
    if verdict == "note":
        assert ("leave out --bf16" if options.get("bf16") else "give --dtype") in finding.advice


@pytest.mark.parametrize("full", [False, True])
def test_a_step_is_really_made(tiny: str, full: bool) -> None:
    (finding,) = time_of_step(PlannedRun(model=tiny, full=full, **SMALL), tiny, CPU)
    assert finding.details["float32_seconds"] > 0 and finding.details["bfloat16_seconds"] > 0


def test_what_cannot_be_timed_stops_nothing(tmp_path: Path) -> None:
    (finding,) = time_of_step(PlannedRun(model="nothing", **SMALL), str(tmp_path), CPU)
    assert finding.verdict == "fine" and "was not timed" in finding.message


@pytest.fixture
def pooled(store: Store, pool_file: Path) -> Store:
    make(store, "ingest", name="pool", data=(str(pool_file),))
    return store


def compared(store: Store, model: str, **options: Any) -> Any:
    config = PlannedRun(model=model, **{"pool": "pool", **SMALL, **options})
    findings = list(compare_kept(config, store, model, 6))
    assert len(findings) == 1
    return findings[0]


@pytest.mark.parametrize("selector", ["max_loss", "uds", "filter_weight"])
def test_the_steps_with_the_same_kept_samples_are_counted(pooled: Store, tiny: str, selector: str) -> None:
    before = sorted(path for path in pooled.root.rglob("*") if path.is_file())
    extra = {"target": "pool"} if selector == "filter_weight" else {}
    finding = compared(pooled, tiny, selector=selector, dtype="bfloat16", **extra)
    assert finding.details["steps"] == 6 and 0 <= finding.details["same"] <= 6
    assert f"in {finding.details['same']} of 6 steps" in finding.message
    assert finding.verdict == ("fine" if finding.details["same"] == 6 else "note")
    assert sorted(path for path in pooled.root.rglob("*") if path.is_file()) == before


def test_scores_that_half_precision_cannot_tell_apart_are_a_warning(pooled: Store, tiny: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "flat")
    model: Any = load_model(ModelOptions(tiny))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)  # losses differ by less than bfloat16 can tell
        model.get_output_embeddings().weight.add_(1.0)
    model.save_pretrained(folder)
    finding = compared(pooled, str(folder), selector="max_loss", dtype="bfloat16")
    assert finding.verdict == "note" and finding.details["same"] < 6 and "Rounding decides" in finding.advice


def test_random_keeps_the_same_in_every_precision(pooled: Store, tiny: str) -> None:
    assert compared(pooled, tiny, selector="random", bf16=True).details["same"] == 6


def test_the_kept_samples_are_those_of_the_first_step_of_a_run(pooled: Store, tiny: str, tmp_path: Path) -> None:
    from curate.doctor.precision import _kept

    options: dict[str, Any] = {"pool": "pool", "model": tiny, "selector": "uds", **SMALL}
    make(pooled, "train", name="run", max_steps=1, **options)
    rows = pooled.query("SELECT position FROM ledger WHERE kept").column("position")
    assert set(rows.to_pylist()) == set(_kept(PlannedRun(**options), pooled, 1)[0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "float32"}, "the run computes in float32"),
        ({"dtype": "bfloat16", "pool": None}, "give --pool"),
        ({"dtype": "bfloat16", "load_in_4bit": True}, "the weights are in 4 bits"),
    ],
)
def test_what_is_not_compared_says_why(pooled: Store, tiny: str, options: dict[str, Any], reason: str) -> None:
    assert compared(pooled, tiny, selector="max_loss", **options).message.endswith(reason)
