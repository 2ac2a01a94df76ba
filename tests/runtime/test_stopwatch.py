"""Seconds per part: on a CPU by the clock, on a GPU by events in its queue, without waiting before the sum is read."""

from __future__ import annotations

import time

import pytest
import torch

from curate.log import Stopwatch


def test_parts_add_up_and_a_failed_part_counts() -> None:
    timer = Stopwatch()
    for _ in range(2):
        with timer.part("sleep"):
            time.sleep(0.01)
    with pytest.raises(ValueError), timer.part("failed"):
        raise ValueError
    timer.add("elsewhere", 1.5)
    assert timer.seconds["sleep"] >= 0.02
    assert timer.seconds["elsewhere"] == 1.5
    assert set(timer.so_far) == {"sleep", "failed", "elsewhere"}
    timer.seconds.update({"before": 2.0})  # as a resumed run does
    assert timer.seconds["before"] == 2.0


class Queue:
    """Clock of a GPU: events get their time when the queue reaches them."""

    def __init__(self) -> None:
        self.at = 0.0
        self.done = 0.0
        self.waits = 0

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def record(self) -> None:
        self.at = self.queue.at

    def query(self) -> bool:
        return self.at <= self.queue.done

    def synchronize(self) -> None:
        self.queue.waits += 1
        self.queue.done = max(self.queue.done, self.at)

    def elapsed_time(self, end: Event) -> float:
        assert end.query()
        return (end.at - self.at) * 1000


def test_on_a_gpu_nothing_waits_until_the_seconds_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", queue.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pytest.fail("the queue was emptied"))
    timer = Stopwatch()
    for seconds, part in [(3.0, "forward"), (2.0, "scores"), (4.0, "forward")]:
        with timer.part(part):
            queue.at += seconds
    start = timer.mark()
    queue.at += 5.0
    timer.charge("training", start)
    assert timer.so_far == {}
    queue.done = 5.0
    assert timer.so_far == {"forward": 3.0, "scores": 2.0}
    assert queue.waits == 0
    assert timer.seconds == {"forward": 7.0, "scores": 2.0, "training": 5.0}
    assert not timer._pending
