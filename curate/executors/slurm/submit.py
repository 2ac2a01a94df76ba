"""Submit jobs with sbatch, each after those that it waits for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from ...errors import ConfigError, StoreError
from ...runtime.terminal import cell
from .script import SlurmJob

PATIENCE = 120
"""Seconds after which a command of Slurm counts as hanging."""


def find_sbatch() -> str:
    """Return the path of sbatch; raise `ConfigError` if it is not on this machine's PATH."""
    found = shutil.which("sbatch")
    if found is None:
        raise ConfigError(
            "There is no sbatch on the PATH: run the command where jobs of Slurm are submitted, or print the scripts "
            "with --dry-run."
        )
    return found


def submit(jobs: Sequence[SlurmJob], sbatch: str) -> dict[str, str]:
    """Submit jobs in their order.

    Returns:
        Name of a job -> its number.

    Raises:
        StoreError: sbatch refuses a job. Those that it has accepted before are cancelled.
    """
    numbers: dict[str, str] = {}
    for job in jobs:
        try:
            numbers[job.name] = _submit(job, numbers, sbatch)
        except StoreError as error:
            raise StoreError(f"{error} {_cancelled([*numbers.values()])}".strip()) from None
    return numbers


def _submit(job: SlurmJob, numbers: dict[str, str], sbatch: str) -> str:
    words = [sbatch, "--parsable"]
    if job.after:
        after = ":".join(numbers[other.name] for other in job.after)
        words += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    code, out, err = _run([*words, str(job.path)])
    if code:
        raise StoreError(f"sbatch refuses the job {job.name}: {cell(' '.join(err.split()) or f'exit code {code}')}.")
    number = out.strip().splitlines()[-1].partition(";")[0] if out.strip() else ""
    if not re.fullmatch(r"\d+", number):
        raise StoreError(f"sbatch answers {out.strip()!r:.80} in place of the number of the job {job.name}.")
    return number


def _cancelled(numbers: Sequence[str]) -> str:
    """Cancel jobs, and return the sentence that says so."""
    if not numbers:
        return ""
    scancel = shutil.which("scancel")
    if scancel is not None and _run([scancel, *numbers])[0] == 0:
        return f"The {len(numbers)} jobs before it are cancelled."
    return f"Cancel the {len(numbers)} jobs before it: scancel {' '.join(numbers)}."


def _run(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command of Slurm and return its exit code, stdout and stderr."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return 1, "", f"it gives no answer within {PATIENCE} s"
    except OSError as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
