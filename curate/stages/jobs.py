"""Turn the entries of a pipeline into jobs of Slurm: one for each entry that is not finished, and an array for parts.

A job runs a pipeline of one entry, which is written next to its script with everything that the entry has from its
file, its config file and the command line. So a job does not change if one of these does.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from ..errors import ConfigError
from ..executors.slurm.order import Step, dependencies
from ..executors.slurm.resources import Assignment, Resources, read_assignments, resources
from ..executors.slurm.script import SlurmJob, file_name
from ..log import LOGGER
from ..runtime.strict_yaml import LARGEST
from . import build_config, is_made, stage_of
from .consent import power_requests

if TYPE_CHECKING:
    from ..config import Config, Options
    from ..store import Store

PASSED = ("OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")
"""Variables that a script sets as this command has them; the others come from Slurm. None of them holds a secret."""


class Entry(Protocol):
    """An entry of a pipeline; see `curate.cli.run.Entry`."""

    @property
    def stage(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def config(self) -> Config | None: ...
    @property
    def query(self) -> Options | None: ...
    @property
    def sql(self) -> str: ...


@dataclass(frozen=True)
class Plan:
    """The jobs of a pipeline.

    Attributes:
        folder: folder of their scripts, pipelines and logs; it does not exist yet.
        jobs: the jobs, each after those that it waits for.
        pipelines: name of a file in the folder -> its text.
    """

    folder: Path
    jobs: Sequence[SlurmJob]
    pipelines: dict[str, str]

    def write(self) -> None:
        """Write the scripts and pipelines. Only this user may read them, because a pipeline may name a secret URL."""
        scripts = [(job.path, job.text) for job in self.jobs]  # before the folder is made: a path may be refused
        self.folder.mkdir(parents=True, mode=0o700)
        for path, text in scripts:
            _write_new(path, text, 0o700)
        for name, text in self.pipelines.items():
            _write_new(self.folder / name, text, 0o600)


def _write_new(path: Path, text: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def plan(store: Store, entries: Sequence[Entry], given: Sequence[str], pipeline: str) -> Plan:
    """Plan the jobs of a pipeline.

    Args:
        store: the store; all machines must see it at the same path.
        entries: the entries, after a check that the command line allows what they ask for.
        given: values of `--slurm`.
        pipeline: name of the pipeline, for the folder.

    Raises:
        ConfigError: a value of `--slurm` is wrong, or an entry cannot run with it.
    """
    assignments = read_assignments(given, {name for entry in entries for name in (entry.stage, entry.label)})
    root = store.root.absolute()
    now = datetime.datetime.now(datetime.UTC)
    folder = root.with_name(f"{root.name}.slurm") / f"{file_name(pipeline)}-{now:%Y%m%d-%H%M%S-%f}"
    steps = [_step(entry) for entry in entries]
    waits = dependencies(steps, frozenset(artifact.name for artifact in store.artifacts()))
    last: dict[int, SlurmJob] = {}
    jobs: list[SlurmJob] = []
    pipelines: dict[str, str] = {}
    for number, entry in enumerate(entries):
        if not any(other in last for other in waits[number]) and _is_finished(store, entry):
            LOGGER.info(f"{entry.stage} {entry.label} is finished: it needs no job.")
            continue
        name = file_name(f"{number + 1:02d}", entry.stage, entry.label)
        pipelines[f"{name}.yaml"] = _text_of(entry)
        found = _resources(entry, assignments)
        after = [last[other] for other in waits[number] if other in last]
        words = ["run", str(folder / f"{name}.yaml"), *_consent_flags(entry)]
        job = SlurmJob(name, folder, sys.executable, words, found, Path.cwd(), _environment(root), after)
        if found.parts > 1:
            jobs.append(replace(job, name=f"{name}-parts", shares=True))
            job = replace(job, resources=Resources(found.options), after=jobs[-1:])
        last[number] = job
        jobs.append(job)
    return Plan(folder, jobs, pipelines)


def _step(entry: Entry) -> Step:
    options = entry.query if entry.config is None else entry.config
    assert options is not None
    values = options.model_dump(mode="json")
    makes = set()
    if entry.config is not None:
        destination = getattr(entry.config, "destination", None)
        makes = {entry.label, *([str(destination)] if destination is not None else [])}
    return Step(entry.stage, entry.label, values, frozenset(options.refs().values()), frozenset(makes))


def _environment(root: Path) -> dict[str, str]:
    """Return the variables that a script sets."""
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    return {"CURATE_STORE": str(root), "CURATE_PROGRESS": "0", **passed}


def _resources(entry: Entry, assignments: Sequence[Assignment]) -> Resources:
    """Return what the job of an entry gets. Several processes can share a stage unless Ray starts its workers.

    Raises:
        ConfigError: the entry cannot run with it.
    """
    is_local = entry.config is not None and getattr(entry.config, "engine", "local") == "local"
    distributed = is_local and stage_of(entry.stage).distributed
    found = resources(assignments, entry.stage, entry.label, distributed=distributed)
    _check_processes(entry, found)
    return found


def _is_finished(store: Store, entry: Entry) -> bool:
    """Return whether an entry would only be found. One that prints or delivers something runs all the same."""
    if entry.config is None:
        return False
    stage = stage_of(entry.stage)
    if stage.show is not None or stage.deliver is not None or not store.has(entry.label):
        return False
    return is_made(store, entry.stage, entry.config)


def _check_processes(entry: Entry, found: Resources) -> None:
    """Raise `ConfigError` if the candidates of a step cannot be divided among the processes of a job."""
    count = found.nodes * found.processes
    keep, candidates = (getattr(entry.config, name, 0) for name in ("keep", "candidates"))
    if entry.stage == "train" and (keep % count or candidates % count):
        raise ConfigError(
            f"--slurm gives train {entry.label} {count} processes, and its keep ({keep}) and candidates ({candidates}) "
            "must be multiples of that: change them, or give it fewer nodes or GPUs."
        )


def _consent_flags(entry: Entry) -> list[str]:
    """Return the flags that allow what the command line of this command has allowed."""
    options = entry.query if entry.config is None else entry.config
    assert options is not None
    words = [request.words() for request in power_requests(options.model_dump())]
    return [word for flag in dict.fromkeys(map(tuple, words)) for word in flag]


def _text_of(entry: Entry) -> str:
    """Return a pipeline of one entry, as YAML.

    Raises:
        ConfigError: the entry is too large for a file, or would be another one when it is read.
    """
    if entry.config is None:
        assert entry.query is not None
        values: dict[str, Any] = entry.query.model_dump(mode="json", exclude_defaults=True, exclude={"file"})
        values["sql"] = entry.sql
    else:
        values = {"name": entry.label, **entry.config.model_dump(mode="json", exclude_defaults=True)}
        if build_config(entry.stage, values) != entry.config:
            values = entry.config.model_dump(mode="json")
    text = yaml.safe_dump({"stages": [{entry.stage: values}]}, sort_keys=False, width=10_000)
    if len(text.encode()) > LARGEST:
        raise ConfigError(f"The entry {entry.stage} {entry.label} is larger than {LARGEST} bytes: shorten it.")
    return text
