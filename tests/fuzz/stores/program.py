"""The program `python -m tests.fuzz --stores N`: run mutants in several processes, and print what came of them."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from curate.runtime.terminal import say, table
from tests.faults.commands import PROJECT
from tests.faults.server import IMPORTED

from .campaign import Campaign, Failure, Outcome, check_honest
from .commands import EVERY
from .mutations import KINDS, Mutant
from .running import STRACE
from .world import prepare

SELDOM: dict[bool, dict[str, float]] = {False: {}, True: {"traced": 0.0, "new": 0.0}}
"""Whether it has to be quick -> shares of commands that take long; the tests try strace on one of their own."""
SHOWN = 3
"""Number of failures of one sort that are printed in full."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        stores: number of mutants.
        seed: where their numbers begin.
        jobs: number of processes.
        first: number of the first mutant.
        only: kind of mutation; others are passed over.
        keep: folder for the honest world, which is used again if it is there, and for the mutants that fail.
        minutes: time after which no further mutant is begun; the tables are then of those that ran.
        quick: run two commands on each mutant, as the tests do, and not nine.
    """

    stores: int
    seed: int
    jobs: int
    first: int = 0
    only: str | None = None
    keep: Path | None = None
    minutes: float | None = None
    quick: bool = False

    def mutants(self) -> list[Mutant]:
        """Return the mutants to run."""
        end = self.first + self.stores * (len(KINDS) if self.only else 1)
        found = [Mutant(self.seed, number) for number in range(self.first, end)]
        return [each for each in found if self.only in (None, each.kind)][: self.stores]


def run_stores(plan: Plan) -> int:
    """Fuzz received stores and print what came of it; return 1 if a check failed."""
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="curate-fuzz-"))
    scratch.chmod(0o755)
    honest = (plan.keep or scratch) / "honest"
    warm()
    if not honest.exists():
        honest.parent.mkdir(parents=True, exist_ok=True)
        prepare(honest)
    wrong = check_honest(Campaign(honest, scratch / "check"), EVERY) if plan.stores > 50 else []
    for line in wrong:
        say(f"On the honest store: {line}", to=sys.stderr)
    tally = Tally()
    for outcome in _outcomes(honest, scratch, plan):
        tally.add(outcome)
    _keep(plan.keep, honest, tally.failures)
    shutil.rmtree(scratch)
    gc.unfreeze()  # modules in C++ complain at exit about what is not collected
    say(*tally.lines(), "", f"{time.monotonic() - began:.0f} s, with strace: {'yes' if STRACE else 'no'}")
    return int(bool(wrong or tally.failures))


def warm() -> None:
    """Import what commands import, once, so that forks need not."""
    os.environ.pop("HF_HUB_OFFLINE", None)  # a request for the network shall be seen
    own = [f"{path.with_suffix('').as_posix().replace('/', '.')}" for path in sorted(_modules())]
    for name in (*IMPORTED, "faiss", "pyarrow.dataset", *own):
        try:
            import_module(name.removesuffix(".__init__"))
        except ImportError:
            continue
    gc.collect()
    gc.freeze()


def _modules() -> Iterator[Path]:
    """Yield the modules of curate, relative to the project."""
    for path in (PROJECT / "curate").rglob("*.py"):
        if path.name != "__main__.py" and "integrations" not in path.parts:
            yield path.relative_to(PROJECT)


def _outcomes(honest: Path, scratch: Path, plan: Plan) -> Iterator[Outcome]:
    """Yield the outcomes of mutants, as processes that are forks of this one find them."""
    mutants = plan.mutants()
    end = math.inf if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    following = context.Value("i", 0)

    def work(number: int) -> None:
        campaign = Campaign(honest, scratch / f"job-{number}", quick=plan.quick, **SELDOM[plan.quick])
        while True:
            with following.get_lock():
                at = following.value
                following.value += 1
            if at >= len(mutants) or time.monotonic() > end:
                results.put(None)
                return
            results.put(campaign.run(mutants[at]))

    workers = [context.Process(target=work, args=(number,)) for number in range(plan.jobs)]
    for worker in workers:
        worker.start()
    working = plan.jobs
    while working:
        if (outcome := results.get()) is None:
            working -= 1
        else:
            yield outcome
    for worker in workers:
        worker.join()


class Tally:
    """Counts of outcomes, by kind and command."""

    def __init__(self) -> None:
        self.cells: Counter[tuple[str, str, str]] = Counter()
        self.stores: Counter[str] = Counter()
        self.sorts: Counter[tuple[str, str]] = Counter()
        self.failures: list[Failure] = []
        self.traced = self.new = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, and print its failures."""
        self.stores[outcome.kind] += 1
        self.cells.update((outcome.kind, command, cell) for command, cell in outcome.cells)
        self.traced += outcome.traced
        self.new += outcome.new
        for failure in outcome.failures:
            self.failures.append(failure)
            sort = failure.what, failure.command
            self.sorts[sort] += 1
            if self.sorts[sort] <= SHOWN:
                say(*described(failure), to=sys.stderr)

    def lines(self) -> list[str]:
        """Return the tables of outcomes: command by kind, and the sorts of failures."""
        kinds = sorted(self.stores, key=list(KINDS).index)
        commands = sorted({command for _, command, _ in self.cells})
        rows = [
            {"command": command, **{kind: self._cell([kind], [command]) for kind in kinds}}
            | {"all": self._cell(kinds, [command])}
            for command in commands
        ]
        rows.append(
            {"command": "all", **{kind: self._cell([kind], commands) for kind in kinds}}
            | {"all": self._cell(kinds, commands)}
        )
        sorts = [
            {"count": count, "command": command, "what": what} for (what, command), count in self.sorts.most_common()
        ]
        ran = sum(self.cells.values())
        head = (
            f"{sum(self.stores.values())} stores, {ran} commands: ok/refused/failed. "
            f"{self.traced} of them with strace, {self.new} in new processes."
        )
        found = table(sorts, width=200) if sorts else ["No check failed."]
        return [head, "", *table(rows, width=10_000), "", f"{len(self.failures)} failures", *found]

    def _cell(self, kinds: Sequence[str], commands: Sequence[str]) -> str:
        counts = [
            sum(self.cells[kind, command, cell] for kind in kinds for command in commands)
            for cell in ("ok", "refused", "failed")
        ]
        return "/".join(map(str, counts)) if any(counts) else ""


def described(failure: Failure) -> list[str]:
    """Return a failure in lines: what to run to see it again, what was changed, what is wrong, and the output."""
    output = [f"    | {line}" for line in failure.output.splitlines()[-25:]]
    return [
        f"--stores 1 --seed {failure.seed} --first {failure.number} ({failure.kind})",
        f"  {failure.mutation}",
        f"  curate {' '.join(failure.args) or failure.command}",
        f"  {failure.what}",
        *output,
        "",
    ]


def _keep(keep: Path | None, honest: Path, failures: Sequence[Failure]) -> None:
    """Write the mutants that failed to a folder."""
    if keep is None:
        return
    for failure in failures:
        folder = keep / f"{failure.seed}-{failure.number}"
        if not folder.exists():
            Mutant(failure.seed, failure.number).make(honest, folder)
        (folder.with_suffix(".txt")).open("a", encoding="utf-8").write("\n".join(described(failure)) + "\n")
