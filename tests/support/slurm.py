"""A stand-in for Slurm: an `sbatch` that records jobs, and a queue that runs them in order with their dependencies.

A job's script runs in bash as it would under Slurm. Its Python is a stand-in, too: it records the command, which the
test then runs in its own process, because every start of the real one imports torch.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SBATCH = """\
import json, os, re, sys
from pathlib import Path
here = Path({folder!r})
if os.environ.get("SBATCH_REFUSES", "none") in sys.argv[-1]:
    sys.exit("sbatch: error: invalid partition\\nspecified: gpu")
path = here / "jobs.jsonl"
number = 100 + len(path.read_text().splitlines() if path.exists() else [])
with path.open("a") as file:
    file.write(json.dumps({{"number": number, "words": sys.argv[1:]}}) + "\\n")
print(number)
"""

PYTHON = """\
import json, os, sys
with open(os.environ["RECORDED"], "w") as file:
    json.dump({"words": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}, file)
"""


@dataclass(frozen=True)
class Submitted:
    """A job as sbatch got it.

    Attributes:
        number: its number.
        script: its script.
        options: options of the script's lines `#SBATCH`.
        after: numbers of the jobs that must have succeeded.
    """

    number: int
    script: Path
    options: dict[str, str]
    after: list[int]

    @property
    def tasks(self) -> list[int | None]:
        """The indices of an array; [None] for another job."""
        if "array" not in self.options:
            return [None]
        first, last = self.options["array"].partition("%")[0].split("-")
        return [*range(int(first), int(last) + 1)]


@dataclass
class Slurm:
    """The stand-in.

    Attributes:
        folder: folder with the stand-ins and their records.
        python: path of the stand-in for Python.
        succeeded: numbers of the jobs that have succeeded.
    """

    folder: Path
    python: Path
    succeeded: set[int] = field(default_factory=set)

    def jobs(self) -> list[Submitted]:
        """Return the jobs in the order of their submission."""
        path = self.folder / "jobs.jsonl"
        return [_submitted(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, job: Submitted, act: Callable[[list[str], dict[str, str]], int]) -> bool:
        """Run a job, an array's tasks from the last to the first. `act` gets the words of each command, and its
        environment, and returns an exit code.
        """
        assert self.succeeded.issuperset(job.after), f"{job.script.name} began before what it waits for"
        for task in reversed(job.tasks):
            recorded = self.folder / "recorded.json"
            recorded.unlink(missing_ok=True)
            environment = {**os.environ, "RECORDED": str(recorded), "SLURM_JOB_ID": str(job.number)}
            environment |= {} if task is None else {"SLURM_ARRAY_TASK_ID": str(task)}
            done = subprocess.run(["bash", job.script], env=environment, cwd="/", capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            command = json.loads(recorded.read_text())
            assert command["words"][:2] == ["-m", "curate"] and command["folder"] == os.getcwd()
            if act(command["words"][2:], command["environment"]):
                return False
        self.succeeded.add(job.number)
        return True


def _submitted(record: dict[str, Any]) -> Submitted:
    script = Path(record["words"][-1])
    lines = [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    pairs = [shlex.split(line)[0].removeprefix("--").partition("=") for line in lines]
    after = [word.partition(":")[2] for word in record["words"] if word.startswith("--dependency=afterok:")]
    return Submitted(
        record["number"],
        script,
        {name: value for name, _, value in pairs},
        [int(number) for number in after[0].split(":")] if after else [],
    )


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Put the stand-in for sbatch on the PATH."""
    folder = tmp_path / "slurm bin"
    folder.mkdir()
    made = Slurm(folder, folder / "python")
    for name, text in (("sbatch", SBATCH.format(folder=str(folder))), ("python", PYTHON)):
        (folder / f"{name}.py").write_text(text)
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -E "{folder}/{name}.py" "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield made
