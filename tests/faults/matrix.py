"""All faults by name, in the order of the table."""

from __future__ import annotations

from .breaking import (
    clock_jumps,
    disk_full,
    during_training,
    file_limit,
    interrupted_twice,
    killed_at_points,
    killed_at_random,
    read_only,
    shm_full,
    small_disk,
    stdout_closed,
    torn_files,
    twice_at_once,
)
from .damage import bad_checkpoint, flipped, missing, truncated
from .many import (
    ON_RAY,
    SHARED,
    rank_hangs,
    rank_killed,
    ray_driver_killed,
    ray_head_killed,
    ray_worker_killed,
    torchrun_killed,
)
from .repairs import FaultTest

FAULTS: dict[str, FaultTest] = {
    "kill -9": killed_at_points,
    "torn file": torn_files,
    "kill -9 any time": killed_at_random,
    "disk full": disk_full,
    "small disk": small_disk,
    "file limit": file_limit,
    "read-only": read_only,
    "flipped byte": flipped,
    "cut off": truncated,
    "gone": missing,
    "bad checkpoint": bad_checkpoint,
    "twice at once": twice_at_once,
    "during training": during_training,
    "clock jumps": clock_jumps,
    "/dev/shm full": shm_full,
    "Ctrl-C twice": interrupted_twice,
    "stdout closed": stdout_closed,
}

MANY: dict[str, tuple[FaultTest, tuple[str, ...]]] = {
    "kill -9 a rank": (rank_killed, SHARED),
    "a rank hangs": (rank_hangs, SHARED),
    "kill -9 torchrun": (torchrun_killed, SHARED),
    "kill -9 Ray worker": (ray_worker_killed, ON_RAY),
    "kill -9 Ray head": (ray_head_killed, ON_RAY),
    "kill -9 Ray driver": (ray_driver_killed, ON_RAY),
}
"""Faults of commands that several processes share, with the stages that they can happen to."""


def faults_of(stage: str) -> dict[str, FaultTest]:
    """Return all faults that can happen to a stage, in the order of the table."""
    return {**FAULTS, **{name: test for name, (test, stages) in MANY.items() if stage in stages}}
