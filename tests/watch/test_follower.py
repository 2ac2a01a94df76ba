"""Tests of what a watch reads: at every moment it has exactly what the run has written, and the run does not notice."""

from __future__ import annotations

import random
from typing import Any

import pytest

from curate import Store
from curate.report.found_runs import find_run, state_of
from curate.report.payload import payload
from curate.report.runs import ReportRequest, report_context
from curate.store.catalog.session import QuerySession
from curate.watch import follower as module
from curate.watch.content import LiveContent
from curate.watch.curve_sums import POINTS, CurveSums
from curate.watch.follower import RunFollower
from curate.watch.spikes import SpikeFinder
from tests.support.live_runs import CANDIDATES, KEPT, LiveRun


def read(follower: RunFollower, *, ended: bool = False) -> list[Any]:
    return [step for part in follower.poll(ended=ended) for step in part]


def test_each_step_is_read_once_while_fragments_grow_close_and_move(store: Store) -> None:
    run = LiveRun(store)
    follower = RunFollower(store, find_run(store, "live"))
    chance, seen = random.Random(0), []
    for number in range(12):
        run.write(chance.randrange(1, 4))
        if number % 4 == 3:
            run.checkpoint()
        seen += read(follower) if chance.random() < 0.7 else []
    seen += read(follower)
    assert [step.step for step in seen] == list(range(1, run.step + 1))
    for step in seen:
        rows = [row for row in run.rows if row["step"] == step.step and row["kept"]]
        assert (step.offered, step.kept) == (CANDIDATES, KEPT) and step.tokens == sum(row["tokens"] for row in rows)
        loss = sum(row["loss"] * row["target_tokens"] for row in rows) / sum(row["target_tokens"] for row in rows)
        assert step.loss == pytest.approx(loss)
        sources = ["first" if row["n"] < 15 else "second" for row in rows]
        assert {name: n for name, n in step.by_source.items() if n} == {name: sources.count(name) for name in sources}
    assert read(follower) == []
    run.end()


def test_the_page_has_the_numbers_of_the_report_of_the_same_run(store: Store) -> None:
    run = LiveRun(store)
    follower = RunFollower(store, find_run(store, "live"))
    for _ in range(3):
        run.write(7)
        read(follower)
    content = LiveContent(follower).make("going", "It goes.")
    with QuerySession(store) as reader:
        report = payload(report_context(store, reader, ReportRequest(("live",)), [run.artifact]))
    mine, theirs = content["runs"][0], report["runs"][0]
    for key in ("steps", "offered", "kept", "tokens", "target_tokens", "loss", "eval", "kept_share", "scores", "time"):
        assert mine[key] == theirs[key], key
    assert mine["distributions"] == theirs["distributions"], "all rows are in the window"
    assert content["groups"] == [group for group in report["groups"] if group["by"] == "source"]
    assert "is not finished" in " ".join(report["notes"])
    run.end()


def test_the_sql_of_a_picture_returns_its_numbers(store: Store) -> None:
    run = LiveRun(store, losses={25: 9.0})
    follower = RunFollower(store, find_run(store, "live"))
    for _ in range(6):
        run.write(5)
        read(follower)
    content = LiveContent(follower).make("going", "It goes.")
    sql, live = content["live"]["sql"], content["live"]

    def column(key: str, name: str) -> list[Any]:
        return store.query(sql[key])[name].to_pylist()

    near = lambda values: pytest.approx(values, rel=1e-4)  # noqa: E731
    assert column("curves/Held-out loss", "value") == near(content["runs"][0]["eval"]["value"])
    losses = zip(column("curves/Loss before the step", "kept_loss_sum"),
                 column("curves/Loss before the step", "kept_loss_tokens"), strict=True)  # fmt: skip
    assert [top / bottom for top, bottom in losses] == near(live["kept_loss"]["value"])
    found = store.query(sql["kept/Share of the kept samples by source"]).to_pylist()
    first = {row["step"]: row["kept"] / KEPT for row in found if row["label"] == "first"}
    line = next(line for line in live["lines"][0] if line["name"] == "first")["kept"]
    assert [first.get(step, 0) for step in line["step"]] == near(line["value"])
    utility = next(each for each in live["quantiles"] if each["name"] == "utility")
    assert [row[1] for row in column("scores/Utility", "quantiles")] == near(utility["middle"]["value"])
    bins = store.query(sql["distributions/Diversity"]).to_pylist()
    shown = next(one for one in content["runs"][0]["distributions"] if one["name"] == "diversity")
    assert sum(row["kept"] for row in bins) == sum(shown["kept"]) == 90
    for key, rows in (("now/Kept", live["now"]["kept"]), ("now/Not kept", live["now"]["passed"]),
                      ("spikes/Step 25", live["spikes"][0]["rows"])):  # fmt: skip
        assert column(key, "sample_id") == [row["sample_id"] for row in rows] != []
    assert all(key.partition("/")[0] in ("curves", "kept", "scores", "distributions", "now", "spikes", "time")
               for key in sql)  # fmt: skip
    for text in sql.values():
        store.query(text)
    run.end()


def test_a_spike_has_the_rows_behind_it_with_their_texts(store: Store) -> None:
    run = LiveRun(store, losses={18: 7.5})
    follower = RunFollower(store, find_run(store, "live"))
    run.write(30)
    read(follower)
    (spike,) = LiveContent(follower).make("going", "It goes.")["live"]["spikes"]
    assert (spike["step"], spike["loss"]) == (18, 7.5) and 1.8 < spike["usual"] < 2.2
    kept = [row for row in run.rows if row["step"] == 18 and row["kept"]]
    assert {row["position"] for row in spike["rows"]} == {row["n"] for row in kept}
    for row in spike["rows"]:
        assert row["prompt"].endswith(f" {row['position']}") or row["position"] == 33
        assert row["labels"] == ["first" if row["position"] < 15 else "second"]
    run.end()


def test_a_run_that_goes_back_to_its_checkpoint_is_read_again(store: Store) -> None:
    run = LiveRun(store)
    follower = RunFollower(store, find_run(store, "live"))
    run.write(4)
    run.checkpoint()
    run.write(6)
    assert len(read(follower)) == 10
    run.rewind(4)
    run.write(3)
    assert [step.step for step in read(follower)] == list(range(1, 8))
    assert follower.totals["offered"] == 7 * CANDIDATES and follower.curves.curve("kept")["step"] == [*range(1, 8)]  # type: ignore[index]
    run.end()


def test_a_long_run_needs_a_fixed_amount_of_memory_and_keeps_its_means(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW_ROWS", 5 * CANDIDATES)
    run = LiveRun(store)
    follower = RunFollower(store, find_run(store, "live"))
    for _ in range(4):
        run.write(10)
        read(follower)
    rows = follower.session.ask("SELECT count(*) AS n, min(step) AS first FROM ledger", {}).to_pylist()
    assert rows == [{"n": 5 * CANDIDATES, "first": 36}] and follower.window_begin == 35
    assert follower.totals["offered"] == 40 * CANDIDATES
    run.end()


def test_curves_join_neighbouring_points() -> None:
    sums, steps = CurveSums(), 3 * POINTS + 7
    for step in range(1, steps + 1):
        sums.add("share", [step], [step % 5], [5])
    found = sums.curve("share")
    assert found is not None and sums.span == 4 and len(found["step"]) <= POINTS
    assert found["step"][:2] == [4, 8] and found["step"][-1] == steps
    slow = [
        sum(s % 5 for s in range(a + 1, min(a + 4, steps) + 1)) / (5 * (min(a + 4, steps) - a))
        for a in range(0, steps, 4)
    ]
    assert found["value"] == pytest.approx(slow)
    assert sums.curve("other") is None


def test_a_loss_far_above_those_before_is_a_spike_and_noise_is_none() -> None:
    chance = random.Random(1)
    finder = SpikeFinder()
    losses = [2 + chance.gauss(0, 0.1) for _ in range(400)]
    losses[200] = 4.0
    found = [spike for step, loss in enumerate(losses, 1) if (spike := finder.add(step, loss))]
    assert 201 in [spike.step for spike in found] and len(found) <= 3
    constant = SpikeFinder()
    assert [constant.add(step, 2.0 + 1e-7 * (step % 2)) for step in range(100)] == [None] * 100


def test_the_catalogue_stays_free_while_a_follower_is_open(store: Store) -> None:
    run = LiveRun(store)
    follower = RunFollower(store, find_run(store, "live"))
    run.write(3)
    read(follower)
    LiveContent(follower).make("going", "It goes.")
    run.checkpoint()
    assert not list((run.draft.path / "facts" / "ledger").glob("*")), "the checkpoint merged its fragments"
    assert store.query("SELECT max(step) AS last FROM ledger WHERE run = 'live'").to_pylist() == [{"last": 3}]
    follower.close()
    run.end()


def test_a_run_with_answers_and_without_losses_or_scores_has_a_page(store: Store) -> None:
    run = LiveRun(store)
    columns = run._columns
    nothing = {"score": None, "loss": None, "parts": {}}
    run._columns = lambda: columns() | nothing  # type: ignore[method-assign]
    follower = RunFollower(store, find_run(store, "live"))
    run.write(12)
    content = LiveContent(follower)
    assert content.make("going", "It goes.")["live"]["now"] is None, "before anything is read"
    assert [step.loss for step in read(follower)] == [None] * 12
    found = content.make("going", "It goes.")
    assert found["runs"][0]["scores"] == [] and found["live"]["spikes"] == [] and found["live"]["kept_loss"] is None
    assert found["runs"][0]["missing"]["scores"] == "This run scores no candidates."
    assert len(found["live"]["now"]["kept"]) == KEPT
    run.end()


def test_the_state_of_a_run_is_that_of_its_lock(store: Store) -> None:
    run = LiveRun(store)
    assert state_of(store, find_run(store, "live")) == "going"
    run.stop()
    draft = find_run(store, "live")
    assert state_of(store, draft) == "stopped"
    (draft.path / "draft.lock").write_text("12 on another-machine")
    assert state_of(store, draft) == "unseen"
    again = LiveRun(store)
    assert find_run(store, None).fingerprint == draft.fingerprint
    again.end()
    assert state_of(store, draft) == "ended" and state_of(store, find_run(store, "live")) == "ended"
