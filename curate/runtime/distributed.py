"""Rank of this process, and number of processes, in a launch by torchrun (from its environment variables).

torchrun starts the same command several times. Rank 0 makes artifacts, prints and logs. In distributed stages the
other ranks share the computation; in other stages they wait for rank 0. All ranks use one store, so on several
machines it must be on a shared disk.
"""

from __future__ import annotations

import os


def size() -> int:
    """Return the number of processes that were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def cores() -> int:
    """Return the number of CPU cores that this process may use; all cores if the system reports none (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_rank() -> int:
    """Return the rank of this process among those on the same machine, from 0; it selects the device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0
