"""Launches of several processes without torchrun: forks of a process that has imported everything.

A launch of torchrun imports torch and transformers in each of its processes, which takes twenty seconds of processor
time; here it takes two. The environment and the key-value store are those that torchrun gives. Tests of torchrun
itself, and of launches that it must end, start torchrun.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.faults.commands import Commands

PATIENCE = 300.0
"""Seconds after which a launch counts as hanging."""


class Ranks:
    """A starter of launches.

    Args:
        commands: starter of the processes.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    def run(
        self, folder: Path, *args: str, processes: int = 2, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `curate ARGS` in several processes. If one fails, the others are stopped, as torchrun does.

        Args:
            folder: the working directory.
            args: the arguments of `curate`.
            processes: the number of processes.
            environment: more variables of the environment.

        Returns:
            The first exit code that is not 0, and the output of all processes, rank after rank.
        """
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        launch = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "CUDA_VISIBLE_DEVICES": ""}
        launch |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": "ranks"}
        launch |= environment or {}
        launch |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_RANK": "0"}
        running = [
            self.commands.start(folder, *args, environment={**launch, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(processes)
        ]
        end, failed = time.monotonic() + PATIENCE, 0
        while any(each.code is None for each in running) and not failed and time.monotonic() < end:
            time.sleep(0.02)
            failed = next((each.code for each in running if each.code), 0)
        if failed:
            for each in running:
                each.send(signal.SIGTERM)
        codes = [each.wait(max(1.0, end - time.monotonic())) for each in running]
        out, err = "".join(each.out for each in running), "".join(each.err for each in running)
        return subprocess.CompletedProcess(args, failed or next(filter(None, codes), 0), out, err)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Start launches that share one import of everything."""
    commands = Commands(tmp_path_factory.mktemp("ranks"))
    yield Ranks(commands)
    commands.close()
