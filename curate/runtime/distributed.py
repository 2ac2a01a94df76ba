"""Which process of a launch this is. torchrun starts the same command several times and tells each in its environment.

Rank 0 makes what is made, prints and logs. The others compute along where a stage is distributed, and wait for it
where it is not. They share one store, so on several machines it must be on a shared disk.
"""

from __future__ import annotations

import os


def size() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def cores() -> int:
    """Cores that this process may run on; where the system does not say (macOS), all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_rank() -> int:
    """Which of the processes on this machine it is, from 0: whose device is whose."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0
