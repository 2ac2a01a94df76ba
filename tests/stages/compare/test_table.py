"""The plan of a comparison and the errors of its options; in its table budgets are equal and a tie is called a tie."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from curate.config import build
from curate.errors import ConfigError
from curate.stages.compare.config import CompareConfig
from curate.stages.compare.format import findings
from curate.stages.compare.plan import ComparisonRun, plan
from curate.stages.compare.stage import check
from curate.stages.compare.table import budget_of, notes_of, rows_of, run_at_budget
from curate.stages.compare.trajectories import Trajectory

TRAIN = {"max_steps": 4, "candidates": 8, "keep": 4, "lr_scheduler_type": "constant"}
COMMON: dict[str, Any] = {"pool": "pool", "eval_pool": "held", "train": TRAIN, "eval_steps": 2, "seeds": [0, 1]}


def config_of(**values: Any) -> CompareConfig:
    return build(CompareConfig, {"name": "c", "model": "m", "selectors": ["max_loss"], **COMMON, **values})


# The plan, and the errors of the options


def test_methods_that_need_a_target_get_it_and_add_the_control_target_only() -> None:
    config = config_of(
        target="t", selectors=["rho", "greats"], pool_selectors=["less", "cluster_ucb", "rds"], seeds=[3]
    )
    planned = plan(config)
    assert config.controls == ("random", "full", "target_only")
    tasks = planned.tasks
    assert tasks["c-reference-s3"].config.model == "c-target_only-s3"  # type: ignore[attr-defined]
    assert tasks["c-target_only-s3"].config.pool == "t"  # type: ignore[attr-defined]
    assert tasks["c-subset-less-chosen-s3"].config.warmup == "c-warmup-s3"  # type: ignore[attr-defined]
    hard = plan(
        config_of(pool_selectors=[{"method": "column", "method_args": {"column": "loss_p90"}}], seeds=[0])
    ).tasks
    assert hard["c-features-quantiles"].config.signals == ("quantiles",)  # type: ignore[attr-defined]
    both = plan(config_of(pool_selectors=["d2"], seeds=[0])).tasks
    assert both["c-features-loss-embedding"].config.signals == ("loss", "embedding")  # type: ignore[attr-defined]
    order = list(tasks)
    assert all(order.index(need) < order.index(name) for name, task in tasks.items() for need in task.needs)


def test_runs_of_batch_selectors_differ_only_in_the_selector() -> None:
    tasks = plan(config_of(selectors=["max_loss", {"selector": "uds", "label": "a", "selector_args": {"alpha": 1e-3}}]))
    own = {"name", "selector", "selector_args", "candidates"}
    runs = {name: task.config.model_dump(exclude=own) for name, task in tasks.tasks.items()}
    assert runs["c-a-s0"] == runs["c-random-s0"] == runs["c-max_loss-s0"] == runs["c-full-s0"] != runs["c-full-s1"]
    assert tasks.tasks["c-a-s1"].config.selector_args == {"alpha": 1e-3}  # type: ignore[attr-defined]
    assert tasks.tasks["c-full-s0"].config.candidates == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selectors": ["max_los"]}, "no selector 'max_los'. Did you mean 'max_loss'?"),
        ({"pool_selectors": ["k_centre"]}, "no method 'k_centre'. Did you mean 'k_center'?"),
        (
            {"pool_selectors": [{"method": "column", "method_args": {"column": "judge"}}]},
            "No signal of curate embed is the column 'judge' of 'subset-column-columnjudge'",
        ),
        (
            {"selectors": [{"selector": "uds", "labell": "x"}]},
            "Unknown key 'labell' in selectors. Did you mean 'label'?",
        ),
        ({"selectors": [{"selector": "uds", "selector_args": {"alpa": 1}}]}, "Did you mean 'alpha'?"),
        ({"selectors": [{"selector": "uds", "train": {"lerning_rate": 1}}]}, "Did you mean 'learning_rate'?"),
        ({"train": {**TRAIN, "kep": 2}}, "Unknown key 'kep' in train. Did you mean 'keep'?"),
        ({"train": {**TRAIN, "seed": 2}}, "The comparison sets 'seed' itself: remove it from train."),
        ({"train": {}}, "give train.max_steps"),
        ({"selectors": ["uds", "uds"]}, "Two methods have the label 'uds'"),
        ({"selectors": ["random"]}, "'random' is a control already"),
        ({"selectors": ["greats"]}, "'greats' needs --target POOL"),
        ({"controls": ["target_only"]}, "target_only needs --target POOL"),
        ({"selectors": []}, "There is no method to compare"),
        ({"seeds": [1, 1]}, "The seeds 1, 1 contain one twice"),
        ({"sedes": [1]}, "Did you mean 'seeds'?"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(config_of(**values))


# The numbers of the table


def trajectory(label: str, seed: int, tokens: list[float], losses: list[float]) -> Trajectory:
    """A run of three steps that was evaluated after each."""
    spent = {name: np.array([0.0, *tokens]) for name in ("tokens", "target_tokens", "seconds")}
    spent |= {"steps": np.arange(4.0), "samples": np.arange(4.0) * 8}
    return Trajectory(ComparisonRun(label, "online", seed, f"c-{label}-s{seed}"), "c1:0", [1, 2, 3], losses, spent, 1.0)


def compared(config: CompareConfig, runs: list[Trajectory]) -> dict[str, dict[str, Any]]:
    baselines = {each.run.seed: each for each in runs if each.run.label == "random"}
    budget = budget_of(config, runs)
    at_budget = [run_at_budget(each, baselines[each.run.seed], config.at, budget, {}) for each in runs]
    return {row["method"]: row for row in rows_of(config, at_budget)}


def test_at_equal_tokens_losses_are_read_between_measurements() -> None:
    config = config_of(at="tokens", seeds=[0])
    runs = [
        trajectory("random", 0, [100, 200, 300], [5, 4, 3]),
        trajectory("long", 0, [200, 400, 600], [4.5, 3.5, 2.5]),
    ]
    assert budget_of(config, runs) == 300
    rows = compared(config, runs)
    assert rows["random"]["loss"] == 3 and rows["long"]["loss"] == pytest.approx(4.0)  # halfway from 200 to 400
    assert rows["long"]["samples"] == pytest.approx(12) and rows["long"]["tokens"] == 300
    assert rows["long"]["tokens_to_random"] == pytest.approx(500)  # 3.0 is halfway from 3.5 to 2.5


def test_a_run_that_ends_before_the_budget_is_not_comparable() -> None:
    config = config_of(at="tokens", budget=250, seeds=[0, 1])
    runs = [trajectory("random", seed, [100, 200, 300], [5, 4, 3]) for seed in (0, 1)]
    runs += [trajectory("short", 0, [100, 200, 300], [5, 4, 3]), trajectory("short", 1, [80, 160, 240], [5, 4, 3])]
    row = compared(config, runs)["short"]
    assert row["verdict"] == "not comparable" and row["loss"] is None and row["difference"] is None
    assert any("Not comparable" in note and "short" in note for note in notes_of(config, runs, 250, 0))


def test_nothing_is_better_whose_interval_includes_zero() -> None:
    config = config_of(seeds=[0, 1, 2])
    runs = [trajectory("random", seed, [1, 2, 3], [5, 4, 3]) for seed in (0, 1, 2)]
    runs += [trajectory("lucky", seed, [1, 2, 3], [5, 4, loss]) for seed, loss in enumerate((2.0, 2.5, 3.01))]
    runs += [trajectory("ahead", seed, [1, 2, 3], [5, 4, loss]) for seed, loss in enumerate((2.9, 2.8, 2.99))]
    runs += [trajectory("behind", seed, [1, 2, 3], [5, 4, loss]) for seed, loss in enumerate((3.1, 3.2, 3.01))]
    rows = compared(config, runs)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "lucky": "tie",
        "ahead": "better",
        "behind": "worse",
        "random": "baseline",
    }
    assert rows["lucky"]["difference"] == pytest.approx(-0.49667, abs=1e-4)
    assert findings({"at": "tokens", "rows": [rows[name] for name in ("lucky", "ahead", "behind", "random")]}) == [
        "lucky is not shown to differ from random: at equal tokens its held-out loss is 0.50 nats per token below that "
        "of random (interval -0.01 to 1.00, 3 seeds).",
        "ahead is better than random: at equal tokens its held-out loss is 0.10 nats per token below that of random "
        "(interval 0.01 to 0.20, 3 seeds).",
        "behind is worse than random: at equal tokens its held-out loss is 0.10 nats per token above that of random "
        "(interval 0.01 to 0.20, 3 seeds).",
    ]


def test_a_small_difference_is_not_rounded_to_nothing() -> None:
    row = {"method": "m", "verdict": "worse", "difference": 0.0021, "low": 0.0004, "high": 0.0038, "seeds": 3}
    assert findings({"at": "tokens", "rows": [row]}) == [
        "m is worse than random: at equal tokens its held-out loss is 0.0021 nats per token above that of random "
        "(interval 0.0004 to 0.0038, 3 seeds)."
    ]


def test_one_seed_is_no_finding() -> None:
    config = config_of(seeds=[0])
    runs = [trajectory(name, 0, [1, 2, 3], [5, 4, loss]) for name, loss in (("random", 3), ("ahead", 2))]
    assert findings({"at": "steps", "rows": list(compared(config, runs).values())}) == []


def test_a_note_warns_of_a_falling_learning_rate_unless_the_budget_is_in_steps_or_samples() -> None:
    falling = config_of(at="tokens", train={**TRAIN, "lr_scheduler_type": "linear"})
    assert any("learning rate falls" in note for note in notes_of(falling, [], 1, 0))
    assert not any("learning rate falls" in note for note in notes_of(config_of(at="tokens"), [], 1, 0))
