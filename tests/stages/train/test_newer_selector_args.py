"""A run that was recorded before its selector had an argument is found and continued as it was."""

from __future__ import annotations

from typing import Any

import pytest

from curate.stages.train.config import TrainConfig

SHAPE: dict[str, Any] = {"name": "x", "pool": "pool", "model": "M", "target": "goal", "selector": "filter_weight"}


def test_the_value_of_before_does_not_enter_the_fingerprint() -> None:
    older = TrainConfig(**SHAPE, selector_args={"swaps": False, "square": "each"})
    assert older.selector_args["swaps"] is False and older.identity()["selector_args"] == {}
    newer = TrainConfig(**SHAPE)
    assert newer.selector_args["swaps"] is True and newer.identity()["selector_args"]["swaps"] is True
    assert TrainConfig(**SHAPE, selector_args={"swaps": True}).identity() == newer.identity() != older.identity()


def test_a_recorded_run_without_the_argument_has_the_value_of_before() -> None:
    recorded = {**SHAPE, "selector_args": {"ridge": 0.01}}
    config = TrainConfig(**TrainConfig.recorded(recorded))
    assert config.selector_args["swaps"] is False and config.identity()["selector_args"] == {"ridge": 0.01}
    assert TrainConfig.recorded({**SHAPE})["selector_args"] == {"swaps": False, "square": "each"}
    again = TrainConfig(**TrainConfig.recorded(TrainConfig(**SHAPE).stored()))
    assert again.selector_args["swaps"] is True


@pytest.mark.parametrize("selector", ["uds", "random", "nothing"])
def test_other_selectors_and_mistakes_are_left_as_they_are(selector: str) -> None:
    values = {**SHAPE, "selector": selector, "selector_args": {"alpha": 1}}
    assert TrainConfig.recorded(values)["selector_args"] == {"alpha": 1}
