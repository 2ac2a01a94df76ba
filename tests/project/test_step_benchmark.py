"""The benchmark of a step runs the real trainer, and its last line is JSON that adds up."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import step


def test_a_step_is_measured_beside_its_ideal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--layers", "1", "--length", "16", "--candidates", "8", "--keep", "2", "--steps", "2", "--warmup", "1"]
    monkeypatch.setattr(sys, "argv", ["step.py", *small, "--reference-texts", "1"])
    step.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["shape"] == "tiny"
    assert found["ideal"] == pytest.approx(found["forward"] + found["train"])
    assert found["ratio"] == pytest.approx(found["ours"] / found["ideal"])
    assert found["saved"] == pytest.approx(1 - found["ours"] / found["full"])
    assert {"scoring_forward", "score_arithmetic", "training", "ledger", "data"} <= set(found["parts"])
    assert all(value > 0 for value in found["parts"].values())
    assert found["reference_step"] > found["reference"] > 0
