"""Examine the software, the devices, the store and a planned run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import devices, packages, storage
from .finding import Finding

if TYPE_CHECKING:
    from .plan import PlannedRun

ESTIMATES = "Planned run (estimates for one process, if every text has --max-length tokens)"


def examine(store: Path, planned: PlannedRun | None = None) -> dict[str, list[Finding]]:
    """Return all findings by section.

    Args:
        store: the folder of the store. It need not exist.
        planned: the run to estimate, or None.
    """
    found, device = devices.detect()
    sections = {"Software": packages.software(), "Devices": found, "Store": storage.check(store)}
    if planned is not None and planned.is_given:
        from .plan import Resources, estimate

        sections[ESTIMATES] = estimate(planned, store, Resources(device, devices.memory(), storage.free_at(store)))
    return sections
