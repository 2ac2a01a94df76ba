"""Time by part: on a CPU by the clock, on a GPU by marks in its queue that nobody waits for until the sum is wanted."""

from __future__ import annotations

import time

import pytest
import torch

from curate.log import Stopwatch


def test_parts_add_up_and_a_failed_part_counts() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.part("sleep"):
            time.sleep(0.01)
    with pytest.raises(ValueError), watch.part("failed"):
        raise ValueError
    watch.add("elsewhere", 1.5)
    assert watch.seconds["sleep"] >= 0.02
    assert watch.seconds["elsewhere"] == 1.5
    assert set(watch.so_far) == {"sleep", "failed", "elsewhere"}
    watch.seconds.update({"before": 2.0})  # as a resumed run does
    assert watch.seconds["before"] == 2.0


class Queue:
    """A GPU's clock: events get their time when the queue has come to them."""

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
    watch = Stopwatch()
    for seconds, part in [(3.0, "forward"), (2.0, "scores"), (4.0, "forward")]:
        with watch.part(part):
            queue.at += seconds
    start = watch.mark()
    queue.at += 5.0
    watch.charge("training", start)
    assert watch.so_far == {}
    queue.done = 5.0
    assert watch.so_far == {"forward": 3.0, "scores": 2.0}
    assert queue.waits == 0
    assert watch.seconds == {"forward": 7.0, "scores": 2.0, "training": 5.0}
    assert not watch._open
