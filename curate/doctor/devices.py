"""The devices that a run could use, with their memory: the CPU, the GPUs, and the limit of the container.

Importing torch and asking a driver may fail in many ways. Such a failure becomes a finding, never an exception.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.distributed import cores
from ..runtime.terminal import size
from .finding import Finding, one_line

CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files in which Linux gives the memory limit of a container: cgroup version 2, then version 1."""


@dataclass(frozen=True)
class Device:
    """A device that a run computes on.

    Attributes:
        kind: the type of the device in torch.
        name: the name that messages show.
        total: all memory of the device, in bytes.
        free: memory that no process uses now, in bytes.
    """

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    total: int
    free: int


def memory() -> Device:
    """Return the CPU with the memory of the machine, or with the memory limit of this container if that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    try:
        import psutil

        free = int(psutil.virtual_memory().available)
    except ImportError:
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    limit = _container_limit()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    return Device("cpu", "cpu", total, free)


def _container_limit() -> int | None:
    for path in CGROUP:
        if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdigit():
            return int(text)
    return None


def detect() -> tuple[list[Finding], Device]:
    """Return a finding per device, and the device that a single process would use: the first GPU, else the CPU."""
    machine = memory()
    details = {"cores": cores(), **_memory_details(machine)}
    cpu = Finding("cpu", f"{cores()} cores; {size(machine.free)} of {size(machine.total)} free", details=details)
    try:
        import torch
    except Exception as error:  # a broken build may raise any exception
        advice = "So GPUs cannot be detected."
        return [cpu, Finding("torch", f"cannot be imported: {one_line(error)}", "note", advice)], machine
    threads = f"{cpu.message}; torch uses {torch.get_num_threads()} threads"
    lines = [Finding(cpu.what, threads, details=cpu.details)]
    try:
        gpus, found = _gpus()
    except Exception as error:  # a driver may raise any exception
        broken = f"cannot be used: {one_line(error)}"
        advice = "Fix the driver, or hide the GPUs: CUDA_VISIBLE_DEVICES="
        return [*lines, Finding("gpu", broken, "wrong", advice)], machine
    if not found and shutil.which("nvidia-smi"):
        build = torch.version.cuda or "no CUDA"
        message = f"a driver is installed, but torch (built for {build}) detects no GPU"
        lines.append(Finding("gpu", message, "note", "See pytorch.org."))
    elif not found:
        lines.append(Finding("gpu", "none: training runs on the CPU"))
    return [*lines, *gpus], found[0] if found else machine


def _gpus() -> tuple[list[Finding], list[Device]]:
    import torch

    lines, devices = [], []
    if torch.cuda.is_available():
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            devices.append(Device("cuda", f"cuda:{number}", total, free))
            message = f"{about.name}; {size(free)} of {size(total)} free; bfloat16: {'yes' if half else 'no'}"
            lines.append(Finding(f"cuda:{number}", message, details={**_memory_details(devices[-1]), "bf16": half}))
    elif torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        devices.append(Device("mps", "mps", total, total - int(torch.mps.driver_allocated_memory())))
        lines.append(
            Finding(
                "mps",
                f"Apple GPU; may use {size(total)} of the machine's memory",
                details=_memory_details(devices[-1]),
            )
        )
    return lines, devices


def _memory_details(device: Device) -> dict[str, int]:
    return {"total_bytes": device.total, "free_bytes": device.free}
