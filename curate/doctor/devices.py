"""The devices that a run could use, and how much memory they have: of the machine, of its GPUs, of this container."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.distributed import cores
from ..runtime.terminal import size
from .finding import Finding, said_by

CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may use: version 2, version 1."""


@dataclass(frozen=True)
class Device:
    """What a run computes on.

    Attributes:
        kind: what torch calls it.
        name: how it is shown.
        total: bytes; free: bytes that nobody uses now.
    """

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    total: int
    free: int


def memory() -> Device:
    """The machine's memory, or what this container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    try:
        import psutil

        free = int(psutil.virtual_memory().available)
    except ImportError:
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    limit = _limit()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    return Device("cpu", "cpu", total, free)


def _limit() -> int | None:
    for path in CGROUP:
        if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdigit():
            return int(text)
    return None


def look() -> tuple[list[Finding], Device]:
    """A line for every device, and the one that a run in one process would take: the first GPU, else the CPU."""
    here = memory()
    details = {"cores": cores(), **_room(here)}
    cpu = Finding("cpu", f"{cores()} cores; {size(here.free)} of {size(here.total)} free", details=details)
    try:
        import torch
    except Exception as error:  # whatever a broken build raises
        return [
            cpu,
            Finding("torch", f"cannot be imported: {said_by(error)}", "note", "GPUs are not looked for."),
        ], here
    lines = [Finding(cpu.what, f"{cpu.said}; torch uses {torch.get_num_threads()} threads", details=cpu.details)]
    try:
        gpus, found = _gpus()
    except Exception as error:  # drivers fail in their own ways
        broken = f"cannot be used: {said_by(error)}"
        advice = "Mend the driver, or hide the GPUs: CUDA_VISIBLE_DEVICES="
        return [*lines, Finding("gpu", broken, "wrong", advice)], here
    if not found and shutil.which("nvidia-smi"):
        build = torch.version.cuda or "no CUDA"
        lines.append(
            Finding("gpu", f"a driver is here, and torch (built for {build}) sees no GPU", "note", "See pytorch.org.")
        )
    elif not found:
        lines.append(Finding("gpu", "none: training runs on the CPU"))
    return [*lines, *gpus], found[0] if found else here


def _gpus() -> tuple[list[Finding], list[Device]]:
    import torch

    lines, devices = [], []
    if torch.cuda.is_available():
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            devices.append(Device("cuda", f"cuda:{number}", total, free))
            said = f"{about.name}; {size(free)} of {size(total)} free; bfloat16: {'yes' if half else 'no'}"
            lines.append(Finding(f"cuda:{number}", said, details={**_room(devices[-1]), "bf16": half}))
    elif torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        devices.append(Device("mps", "mps", total, total - int(torch.mps.driver_allocated_memory())))
        lines.append(
            Finding("mps", f"Apple GPU; shares the machine's memory, {size(total)} of it", details=_room(devices[-1]))
        )
    return lines, devices


def _room(device: Device) -> dict[str, int]:
    return {"total_bytes": device.total, "free_bytes": device.free}
