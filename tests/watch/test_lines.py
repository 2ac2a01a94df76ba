"""Tests of `curate status RUN` and `--follow`: one line a step, in order, until the run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from curate import Store
from curate.report.found_runs import find_run
from curate.watch import lines as module
from curate.watch.follower import RunFollower
from curate.watch.lines import StepLines, follow
from tests.support.live_runs import LiveRun

Call = Callable[..., Any]


def slow_line(run: LiveRun, step: int) -> str:
    """The line of a step, from the rows that the run wrote."""
    kept = [row for row in run.rows if row["step"] == step and row["kept"]]
    loss = sum(row["loss"] * row["target_tokens"] for row in kept) / sum(row["target_tokens"] for row in kept)
    sources = ["first" if row["n"] < 15 else "second" for row in kept]
    offered = {"first" if row["n"] < 15 else "second" for row in run.rows if row["step"] == step}
    counts = sorted(((sources.count(name), name) for name in {*sources}), key=lambda each: (-each[0], each[1]))
    by_source = f" ({', '.join(f'{name} {count}' for count, name in counts)})" if len(offered) > 1 else ""
    held_out = f"  held-out {4 - step / 40:.4f}" if step % 5 == 0 else ""
    return f"step {step}  loss {loss:.4f}  kept 3 of 8{by_source}  0.25 s{held_out}"


def test_a_run_is_printed_step_by_step_until_it_ends(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = LiveRun(store).write(14)
    acts = [lambda: run.write(3), lambda: None, lambda: run.write(1), run.end]
    follower = RunFollower(store, find_run(store, "live"), pictures=False)
    end = follow(follower, pause=lambda seconds: acts.pop(0)())  # type: ignore[func-returns-value]
    assert (end.code, acts) == (0, [])
    assert capsys.readouterr().out.splitlines() == [slow_line(run, step) for step in range(5, 19)]
    assert end.sentence.startswith("The run 'live' has ended after 18 steps.")


def test_a_line_waits_for_what_is_logged_after_its_step_but_not_for_ever(store: Store, monkeypatch: Any) -> None:
    run = LiveRun(store).write(4)
    follower = RunFollower(store, find_run(store, "live"), pictures=False)
    lines = StepLines(follower)
    assert list(lines.new()) == [slow_line(run, step) for step in (1, 2, 3)], "step 4 may be evaluated yet"
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    assert list(lines.new()) == [slow_line(run, 4)]
    logged, run.metrics = run.metrics, [row for row in run.metrics if row[0] < 4]
    write, run.live.write = run.live.write, lambda rows: write([row for row in rows if row[:2] != (5, "eval_loss")])  # type: ignore[method-assign]
    run.write(1)
    assert list(lines.new()) == [slow_line(run, 5).partition("  held-out")[0]]
    run.metrics, run.live.write = [*logged, *run.metrics[-3:]], write  # type: ignore[method-assign]
    run.live.write(run.metrics)
    run.live.close()
    assert list(lines.new()) == ["step 5  held-out 3.8750"]
    run.end()


def test_status_follows_the_only_run_and_its_exit_code_says_how_it_ended(
    curate: Call, store: Store, monkeypatch: Any
) -> None:
    run = LiveRun(store).write(2)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: run.stop() if run.draft else None)
    stop, run.stop = run.stop, lambda: (stop(), setattr(run, "draft", None))  # type: ignore[method-assign,assign]
    monkeypatch.setattr(follow, "__kwdefaults__", {"pause": module.time.sleep})
    done = curate("status", "--follow")
    assert done.code == 1 and done.out.splitlines() == [slow_line(run, 1), slow_line(run, 2)]
    assert "The run 'live' stopped after step 2, before its end. Resume it with: curate resume live" in done.err
    assert curate("status", "--follow", "live").code == 1


def test_status_of_a_run_is_its_newest_step_and_its_state(curate: Call, store: Store) -> None:
    run = LiveRun(store)
    assert curate("status", "live").out == "The run 'live' has not written its first step yet.\n"
    run.write(7)
    assert curate("status", "live").out.splitlines() == [slow_line(run, 7), "The run 'live' is at step 7 of 40."]
    run.end()
    assert curate("status", "live").out.splitlines()[-1] == "The run 'live' has ended after 7 steps."
    assert "Did you mean 'live'?" in curate("status", "lvie").err
    assert curate("status", "a").out.splitlines()[0].startswith("step 12  loss ")
    assert curate("status").code == 0


def test_sources_with_control_characters_are_escaped_and_many_are_cut(store: Store) -> None:
    step = module.Step(1, 9, 6, 10, None, {"a\x1b[31m": 3, "b": 1, "c": 1, "d": 1, "e": 0, "f": 0})
    follower = RunFollower(store, store.get("a"), pictures=False)
    line = StepLines(follower).line(step)
    assert line == "step 1  loss -  kept 6 of 9 (a\\x1b[31m 3, b 1, c 1, d 1)  - s"
    more = module.Step(1, 9, 6, 10, None, {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1})
    assert "(a 2, b 1, c 1, d 1, others 1)" in StepLines(follower).line(more)
