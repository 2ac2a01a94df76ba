"""The comparison of online selectors compares like with like."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.online_selectors import CONTROLS, SELECTORS, Job, Setting, config_of, show, split_target, summarise
from curate.config import build
from curate.selectors import SELECTORS as KNOWN
from curate.stages.train_config import TrainConfig

SETTING = Setting(Path("s"), Path("m"), candidates=32, keep=8, steps=40, max_length=256, batch=16)
FREE = {"name", "selector", "selector_args", "target", "target_batch_size", "reference"}
"""What a run that chooses may have of its own."""


def config(method: str, seed: int = 0) -> TrainConfig:
    return build(TrainConfig, config_of(SETTING, Job(method, seed, 1e-2)))


def test_every_selector_is_compared() -> None:
    assert {*SELECTORS, "full"} == set(KNOWN)


@pytest.mark.parametrize("method", SELECTORS)
def test_runs_that_choose_differ_in_their_selector_alone_and_run_at_its_defaults(method: str) -> None:
    run = config(method)
    assert run.selector == method and run.selector_args == {}
    assert run.model_dump(exclude=FREE) == config("random").model_dump(exclude=FREE)


@pytest.mark.parametrize("method", ["full", "target_only"])
def test_controls_train_on_as_many_samples_in_as_many_steps(method: str) -> None:
    run, random = config(method), config("random")
    assert (run.keep, run.candidates) == (random.keep, random.keep)
    own = FREE | {"pool", "candidates"}
    assert run.model_dump(exclude=own) == random.model_dump(exclude=own)
    assert run.pool == ("target" if method == "target_only" else "pool")


def test_the_target_is_split_in_halves_that_share_no_question() -> None:
    rows = [{"instruction": f"q{i % 10}", "input": "", "output": str(i)} for i in range(12)]
    given, held_out = split_target(rows)
    assert len(given) == len(held_out) == 5
    assert {row["instruction"] for row in given}.isdisjoint(row["instruction"] for row in held_out)
    assert split_target(rows) == (given, held_out)


def test_the_table_is_sorted_by_loss_and_compares_with_random_at_the_same_seed() -> None:
    def run(loss: float) -> dict[str, float | None]:
        return {
            "loss": loss,
            "kept": 8,
            "tokens": 1234,
            "answer_tokens": 600,
            "seconds_a_step": 0.5,
            "wanted": 0.25,
            "noise": None,
        }

    runs = {method: [run(4.0), run(5.0)] for method in (*SELECTORS, *CONTROLS)} | {"rho": [run(3.0), run(3.5)]}
    lines = summarise(runs)
    best = lines[0]
    assert best["method"] == "rho" and best["loss"] == 3.25 and best["vs_random"] == -1.25
    assert best["vs_random_sd"] == pytest.approx(0.3535534) and best["noise"] is None
    assert show(lines).splitlines()[2] == "| rho | 3.250 ± 0.354 | -1.250 ± 0.354 | 8 | 1,234 | 600 | 0.50 | 25% | – |"
