"""Progress: a bar in a terminal, a line now and then in a log, nothing where nobody asked for it."""

from __future__ import annotations

import logging

import pytest

from curate import log


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.delenv("CURATE_PROGRESS")
    monkeypatch.setattr(log.LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, "curate")
    return caplog


def test_a_long_command_whose_stderr_is_a_file_logs_lines(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LINE_SECONDS", 0.0)
    with log.bar(total=4, label="embed pool", unit="row") as progress:
        progress.update(1)
        progress.set_postfix_str("loss 1.5", refresh=False)
        progress.update(3)
    assert lines.messages[0].startswith("embed pool: 0 of 4 rows (0%)")
    assert any(line.startswith("embed pool: 4 of 4 rows (100%)") and "loss 1.5" in line for line in lines.messages)
    assert not any("\r" in line or "\n" in line for line in lines.messages)


def test_a_bar_without_a_total_counts(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LINE_SECONDS", 0.0)
    with log.bar(total=None, label="ingest", unit="row") as progress:
        progress.update(7)
    assert any(line.startswith("ingest: 7 rows, ") for line in lines.messages)


def test_a_short_command_logs_none(lines: pytest.LogCaptureFixture) -> None:
    with log.bar(total=2, label="embed", unit="row") as progress:
        progress.update(2)
    assert lines.messages == []


def test_progress_can_be_switched_off(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LINE_SECONDS", 0.0)
    monkeypatch.setenv("CURATE_PROGRESS", "0")
    with log.bar(total=2, label="embed", unit="row") as progress:
        progress.update(2)
    log.Heartbeat().beat(lambda: "still at work")
    assert lines.messages == []


def test_a_heartbeat_waits_for_its_time(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    heartbeat = log.Heartbeat(every=30)
    for now[0] in (10.0, 31.0, 32.0, 59.0, 62.0):
        heartbeat.beat(lambda: f"at {now[0]:.0f}")
    assert lines.messages == ["at 31", "at 62"]


def test_lines_that_come_again_are_counted_and_not_logged(lines: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError), log.repeats_left_out():
        for _ in range(3):
            log.LOGGER.warning("5 samples have nothing to train on.")
        log.LOGGER.info("made one in 1 s")
        raise ValueError
    log.LOGGER.warning("5 samples have nothing to train on.")
    again = "5 samples have nothing to train on."
    assert lines.messages == [again, "made one in 1 s", "2 lines like earlier ones were left out.", again]
