"""Give tests to processes of pytest-xdist so that they all end at about the same time.

The slowest files are tried first, and a process without work takes tests from another one. So no process starts a
long test when the others have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from xdist.scheduler import WorkStealingScheduling

SLOWEST = (
    "tests/project/test_links.py",
    "tests/project/test_hostile_text.py",
    "tests/executors/test_ray.py",
    "tests/training/test_distributed.py",
    "tests/training/test_kill.py",
    "tests/executors/test_distributed.py",
    "tests/project/test_docs.py",
    "tests/doctor/test_doctor.py",
    "tests/store/test_received_stores.py",
    "tests/families/test_families.py",
    "tests/project/test_examples.py",
    "tests/fuzz/stores/test_fuzz_stores.py",
    "tests/project/test_wheel.py",
    "tests/stages/advise/test_advise.py",
)
"""Files whose single tests take longest, the slowest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the slowest files first; within a file and among the others the order stays."""
    place = {ROOT / name: number for number, name in enumerate(SLOWEST)}
    missing = [path for path in place if not path.is_file()]
    if missing:
        raise pytest.UsageError(f"{missing[0]} is not there: correct SLOWEST in tests/support/schedule.py.")
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkStealingScheduling | None:
    """Let a process without work take tests from another one, if `--dist` names no other way."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
