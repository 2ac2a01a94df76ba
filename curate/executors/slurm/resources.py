"""Read `--slurm`: options of sbatch as `key=value`, for all jobs, or for one stage or entry as `NAME.key=value`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ConfigError, did_you_mean

KEYS = (
    *("account", "partition", "qos", "reservation", "constraint", "clusters", "wckey", "licenses", "nice", "priority"),
    *("time", "begin", "deadline", "nodes", "nodelist", "exclude", "exclusive", "contiguous", "switches"),
    *("cpus-per-task", "cpus-per-gpu", "mem", "mem-per-cpu", "mem-per-gpu", "tmp"),
    *("gres", "gpus-per-node", "mail-type", "mail-user", "comment"),
)
"""Options of sbatch that may be given. The others are set by curate, or would change what a script does."""

ARRAY = "array"
"""Key of curate's own: the number of jobs that share the work of `embed`, and `%N` of them at once at most."""

UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'\\#]")
"""Characters that a line `#SBATCH` cannot hold."""


@dataclass(frozen=True)
class Assignment:
    """A pair of `--slurm`.

    Attributes:
        target: the stage or entry that it is for; "" for all.
        key: the option.
        value: its value.
    """

    target: str
    key: str
    value: str


@dataclass(frozen=True)
class Resources:
    """Resources of a job.

    Attributes:
        options: options of sbatch by name.
        processes: number of processes on a node, one per GPU; 1 without torchrun.
        nodes: number of nodes.
        parts: number of jobs that share the work; 1: it is not shared.
        at_once: maximum number of these that run at once; None: all.
    """

    options: Mapping[str, str]
    processes: int = 1
    nodes: int = 1
    parts: int = 1
    at_once: int | None = None


def read_assignments(texts: Iterable[str], targets: Collection[str]) -> list[Assignment]:
    """Read the pairs of `--slurm`. Commas separate pairs; a value may hold commas that no `key=` follows.

    Args:
        texts: values of the flag.
        targets: names that a pair may begin with: stages and artifacts of the pipeline.

    Raises:
        ConfigError: a pair has no `=`, or an unknown key, an unknown name or a value that a script cannot hold.
    """
    found = []
    for pair in (part for text in texts for part in re.split(r",(?=[\w.-]+=)", text)):
        left, equals, value = pair.partition("=")
        target, _, key = left.strip().rpartition(".")
        if not equals or not key:
            raise ConfigError(f"--slurm needs key=value, such as partition=gpu, not {pair!r:.80}.")
        if key not in (*KEYS, ARRAY):
            raise ConfigError(f"--slurm {key}: this is no option that can be given.{did_you_mean(key, (*KEYS, ARRAY))}")
        if target and target not in targets:
            raise ConfigError(
                f"--slurm {target}.{key}: the pipeline has no stage and makes nothing of this name."
                f"{did_you_mean(target, targets)}"
            )
        if key == ARRAY and "embed" not in targets:
            raise ConfigError("--slurm array shares the work of embed, and the pipeline has none: leave it out.")
        found.append(Assignment(target, key, checked(value.strip(), f"--slurm {key}")))
    return found


def checked(value: str, what: str) -> str:
    """Return a value for a line `#SBATCH`; raise `ConfigError` if such a line cannot hold it."""
    if UNSAFE.search(value):
        raise ConfigError(
            f"{what} holds a quote, a backslash, a # or a control character, which no script can: {value!r:.80}."
        )
    return value


def resources(assignments: Sequence[Assignment], stage: str, label: str, *, distributed: bool) -> Resources:
    """Return what the job of an entry gets: pairs for its name before those for its stage, before those for all.

    Args:
        assignments: the pairs, as `read_assignments` returns them.
        stage: stage of the entry.
        label: name of the entry.
        distributed: whether several processes can share the stage.

    Raises:
        ConfigError: the stage cannot use what it is given.
    """
    by_target: dict[str, dict[str, str]] = {}
    for each in assignments:
        by_target.setdefault(each.target, {})[each.key] = each.value
    own = {**by_target.get(stage, {}), **by_target.get(label, {})}
    options = {**by_target.get("", {}), **own}
    if "array" in own and stage != "embed":
        raise ConfigError(
            f"--slurm {label}.array: only the work of embed can be shared by an array, not that of {stage}."
        )
    parts, at_once = _array(options.pop(ARRAY, "1") if stage == "embed" else "1")
    options.pop(ARRAY, None)
    if parts > 1 and not distributed:
        raise ConfigError(f"--slurm array={parts} replaces --engine ray: give {label} one of them.")
    if not distributed:
        if "nodes" in own and own["nodes"] != "1":
            raise ConfigError(f"--slurm {label}.nodes: {stage} runs in one process, so give it one node.")
        options.pop("nodes", None)
        return Resources(options)
    nodes, processes = _number(options.get("nodes", "1"), "nodes"), _gpus(options)
    if parts > 1 and nodes * processes > 1:
        raise ConfigError(
            f"--slurm array={parts} gives each job one process, and {label} has {nodes * processes}: give "
            f"{label}.nodes=1 and {label}.gpus-per-node=1, or leave out array."
        )
    return Resources(options, processes, nodes, parts, at_once)


def _array(value: str) -> tuple[int, int | None]:
    """Return the number of jobs of an array, and how many may run at once."""
    count, _, limit = value.partition("%")
    return _number(count, ARRAY), _number(limit, ARRAY) if limit else None


def _gpus(options: Mapping[str, str]) -> int:
    """Return the number of GPUs on a node: of `4`, `a100:4` or `gpu:a100:4`; 1 if none are asked for."""
    if given := options.get("gpus-per-node"):
        return _number(given.rpartition(":")[2], "gpus-per-node")
    for entry in options.get("gres", "").split(","):
        if entry.split(":")[0] == "gpu":
            last = entry.rpartition(":")[2]
            return _number(last, "gres") if last.isdigit() else 1
    return 1


def _number(text: str, key: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 100_000):
        raise ConfigError(f"--slurm {key} needs a whole number from 1, not {text!r:.40}.")
    return int(text)
