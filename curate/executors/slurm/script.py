"""Write the script of a job: the command of one entry of a pipeline, with its environment, and how it is resumed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .resources import Resources, checked

GRACE = 120
"""Seconds before its time limit at which Slurm tells a job to stop."""

RESTARTS = 50
"""Number of times that a job is put back into the queue at its time limit; one that never ends would go on for ever."""

RESUME = """\
stop() {{
    trap '' USR1
    kill -TERM $(jobs -p) 2>/dev/null || true
    wait
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {restarts} ]; then
        echo "This job was put back into the queue {restarts} times and is not finished: give --slurm time more." >&2
        exit 1
    fi
    echo "The time limit is near: the job goes back into the queue, and then resumes." >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 1
}}
trap stop USR1
"""
"""Slurm sends USR1 to the script before the time limit; the same job then runs again and continues. TERM ends a job
that is cancelled, so it puts nothing back into the queue."""

SEVERAL_NODES = """\
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
"""


@dataclass(frozen=True)
class SlurmJob:
    """A job of Slurm.

    Attributes:
        name: name of its files: number, stage and label of the entry.
        folder: folder of its files, absolute.
        python: path of the Python interpreter.
        words: words of the command after `curate`.
        resources: what the job gets.
        workdir: folder in which the command runs, absolute.
        environment: variables that the script sets.
        after: jobs that must have succeeded.
        shares: whether this is an array whose jobs share the work.
    """

    name: str
    folder: Path
    python: str
    words: Sequence[str]
    resources: Resources
    workdir: Path
    environment: Mapping[str, str]
    after: Sequence[SlurmJob] = ()
    shares: bool = field(default=False)

    @property
    def path(self) -> Path:
        """Path of the script."""
        return self.folder / f"{self.name}.sh"

    @property
    def log(self) -> Path:
        """Path of the log, with the patterns of Slurm for the job's number."""
        return self.folder / f"{self.name}.{'%A-%a' if self.shares else '%j'}.log"

    @property
    def text(self) -> str:
        """The script.

        Raises:
            ConfigError: the path of the log cannot stand in a script.
        """
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        several = SEVERAL_NODES if self.resources.nodes > 1 else ""
        return (
            f"#!/bin/bash\n{self._header()}\nset -euo pipefail\ncd {shlex.quote(str(self.workdir))}\n{exports}\n"
            f'{RESUME.format(restarts=RESTARTS)}\n{several}{self._command()} &\nwait "$!"\n'
        )

    def _header(self) -> str:
        folder = checked(str(self.folder), "The path of the store").replace("%", "%%")
        given = {
            "job-name": f"curate-{self.name}",
            "output": f"{folder}/{self.log.name}",
            "open-mode": "append",
            "signal": f"B:USR1@{GRACE}",
            **self.resources.options,
        }
        if self.resources.nodes > 1:
            given["ntasks-per-node"] = "1"
        if self.shares:
            at_once = self.resources.at_once
            given["array"] = f"0-{self.resources.parts - 1}" + (f"%{at_once}" if at_once else "")
        lines = [
            f"#SBATCH --{name}={_quoted(value)}" if value else f"#SBATCH --{name}" for name, value in given.items()
        ]
        return "\n".join([*lines, "#SBATCH --requeue", ""])

    def _command(self) -> str:
        words = [shlex.quote(word) for word in self.words]
        if self.shares:
            words += ["--part", f'"$SLURM_ARRAY_TASK_ID/{self.resources.parts}"']
        return " ".join([*self._launcher(), "-m", "curate", *words])

    def _launcher(self) -> list[str]:
        """Return the words before `-m curate`: Python, or torchrun for several processes."""
        python = shlex.quote(self.python)
        given = self.resources
        if self.shares or given.nodes * given.processes == 1:
            return [python]
        torchrun = [python, "-m", "torch.distributed.run", "--nproc-per-node", str(given.processes)]
        if given.nodes == 1:
            return [*torchrun, "--standalone"]
        meeting = '--rdzv-endpoint "${hosts[0]}:$((20000 + SLURM_JOB_ID % 20000))"'
        cores = ['--cpus-per-task="$SLURM_CPUS_PER_TASK"'] if "cpus-per-task" in given.options else []
        return [
            *("srun", f"--nodes={given.nodes}", "--ntasks-per-node=1", *cores, *torchrun, f"--nnodes {given.nodes}"),
            *('--rdzv-id "$SLURM_JOB_ID"', "--rdzv-backend c10d", meeting),
        ]


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w@%+=:,./~-]+", value) else f'"{value}"'


def file_name(*parts: object) -> str:
    """Return a name of a file and a job, made of letters, digits, `.`, `_` and `-` only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(map(str, parts)))[:100].strip("-.")
