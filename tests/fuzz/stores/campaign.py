"""Run mutants: make each, run its commands, check, count, and print what failed and how to see it again."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .checks import CONTENT, LAWFUL, of_calls, problems
from .commands import Command, drawn
from .mutations import Mutant
from .running import STRACE, Ran, forked, new_process
from .watching import Openings, Proxy, changes, snapshot
from .world import MARKS, OUTSIDE, STORE, WRITABLE

TRACED, NEW = 0.06, 0.004
"""Shares of the commands whose system calls are followed, and that run in a new process."""
OTHERS = 4
"""Number of the commands of a store that are drawn, beside the cheap ones that each store gets."""
VERIFIES = ("verify", "verify one")
OPENS = "opens "


@dataclass
class Failure:
    """A check that failed.

    Attributes:
        seed: the seed.
        number: the number of the mutant.
        kind: its kind.
        mutation: what was changed.
        command: the name of the command.
        args: its arguments.
        what: what is wrong.
        output: the ends of stdout and stderr.
    """

    seed: int
    number: int
    kind: str
    mutation: str
    command: str
    args: list[str]
    what: str
    output: str = ""


@dataclass
class Outcome:
    """What came of a mutant.

    Attributes:
        kind: its kind.
        cells: command -> `ok`, `refused` or `failed`, one for each run of it.
        traced: number of commands whose system calls were followed.
        new: number of commands in new processes.
        failures: what failed.
    """

    kind: str
    cells: list[tuple[str, str]] = field(default_factory=list)
    traced: int = 0
    new: int = 0
    failures: list[Failure] = field(default_factory=list)


class Campaign:
    """The runs of one process over one honest world.

    Args:
        honest: the honest world.
        folder: where mutants are made and removed.
        quick: run two commands on a store.
        traced: share of commands whose system calls are followed.
        new: share of commands in new processes.
    """

    def __init__(
        self, honest: Path, folder: Path, *, quick: bool = False, traced: float = TRACED, new: float = NEW
    ) -> None:
        self.honest, self.folder = honest, folder
        self.quick, self.new = quick, new
        self.traced = traced if STRACE else 0.0
        self.proxy = Proxy()
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, mutant: Mutant) -> Outcome:
        """Make a mutant, run its commands, and return what came of it. An error of this harness is a failure, too."""
        try:
            return self._run(mutant)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            failure = Failure(mutant.seed, mutant.number, mutant.kind, "", "", [], f"harness: {error!r}", text)
            return Outcome(mutant.kind, failures=[failure])

    def _run(self, mutant: Mutant) -> Outcome:
        outcome, rng = Outcome(mutant.kind), mutant.random("commands")
        commands = drawn(rng, mutant.kind, OTHERS, quick=self.quick)
        with self.world(mutant) as (world, mutation):
            reading = [each for each in commands if not each.writes]
            ran = {each.name: self._checked(mutant, mutation, each, world, outcome) for each in reading}
        for command in commands:
            if command.writes:
                with self.world(mutant) as (world, mutation):
                    ran[command.name] = self._checked(mutant, mutation, command, world, outcome)
        self._compare_with_verify(mutant, mutation, commands, ran, outcome)
        return outcome

    @contextlib.contextmanager
    def world(self, mutant: Mutant, name: str = "w") -> Iterator[tuple[Path, str]]:
        """Make the mutant in a new folder, and remove it afterwards."""
        world = self.folder / name
        discard(world)
        mutation = mutant.make(self.honest, world)
        try:
            yield world, mutation
        finally:
            discard(world)

    def _checked(self, mutant: Mutant, mutation: str, command: Command, world: Path, outcome: Outcome) -> Ran:
        """Run a command with everything that watches it."""
        rng = mutant.random(f"how {command.name}")
        traced, new = rng.random() < self.traced, rng.random() < self.new
        if mutant.kind == "modes":
            new = False  # a new process would have the rights of root
        outcome.traced += traced and not new
        outcome.new += new
        ran, wrong = self._watched(command, world, traced=traced, new=new)
        if any(what.startswith(OPENS) for what in wrong):  # of another program that walks through all folders?
            with self.world(mutant, "again") as (again, _):
                _, second = self._watched(command, again, traced=traced, new=new)
            wrong = [what for what in wrong if not what.startswith(OPENS) or what in second]
        outcome.cells.append((command.name, "failed" if wrong else "ok" if ran.code == 0 else "refused"))
        outcome.failures += [_failure(mutant, mutation, command, what, ran) for what in wrong]
        return ran

    def _watched(self, command: Command, world: Path, *, traced: bool, new: bool) -> tuple[Ran, list[str]]:
        if new:
            return watched(world, command, lambda: new_process(world, command, self.proxy.environment), self.proxy)
        fork = functools.partial(forked, world, command, self.proxy.environment, traced=traced)
        return watched(world, command, fork, self.proxy)

    def _compare_with_verify(
        self, mutant: Mutant, mutation: str, commands: Iterable[Command], ran: dict[str, Ran], outcome: Outcome
    ) -> None:
        """Add a failure for each command that refuses a store that `curate verify` finds nothing wrong with.

        What may not be written is no defect of a store.
        """
        if ran["verify"].code != 0 or CONTENT.search(mutation):
            return
        for command in commands:
            asked = command.name not in VERIFIES and not (mutant.kind == "modes" and command.needs_writing)
            refused = ran[command.name].code == 1 and not LAWFUL.search(ran[command.name].err.decode(errors="replace"))
            if asked and refused:
                failure = _failure(mutant, mutation, command, "verify names nothing", ran[command.name])
                outcome.failures.append(failure)


def watched(world: Path, command: Command, run: Callable[[], Ran], proxy: Proxy) -> tuple[Ran, list[str]]:
    """Run a command while its surroundings are watched, and return what it did and what is wrong with it."""
    still = command.name in VERIFIES or command.name == "status"
    before, store = snapshot(world, WRITABLE), snapshot(world / STORE) if still else {}
    openings = Openings(world / OUTSIDE)
    openings.seen()
    proxy.requests()
    ran = run()
    wrong = [f"{OPENS}{path}" for path in openings.seen()]
    openings.close()
    wrong += [f"network: {line}" for line in proxy.requests()]
    wrong += problems(command, ran)
    wrong += [f"outside: {line}" for line in changes(before, snapshot(world, WRITABLE))]
    if still:
        wrong += [f"changes the store: {line}" for line in changes(store, snapshot(world / STORE))]
    if any((world / MARKS).iterdir()):
        wrong.append(f"code ran: it left {sorted(path.name for path in (world / MARKS).iterdir())}")
    if ran.calls is not None:
        wrong += sorted(set(of_calls(ran.calls, world)))
    return ran, wrong


def _failure(mutant: Mutant, mutation: str, command: Command, what: str, ran: Ran) -> Failure:
    output = "\n".join(stream.decode(errors="replace")[-1500:] for stream in (ran.out, ran.err))
    return Failure(mutant.seed, mutant.number, mutant.kind, mutation, command.name, list(command.args), what, output)


def discard(world: Path) -> None:
    """Remove a world, whatever the modes of its folders are, and what its commands delivered."""
    if not world.exists():
        return
    for folder, _, _ in os.walk(world):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    for folder, _, _ in os.walk(world):  # folders below unreadable ones
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(world)


def check_honest(campaign: Campaign, commands: Iterable[Command]) -> list[str]:
    """Return what is wrong with commands on the honest world, where all of them must succeed."""
    wrong = []
    world = campaign.folder / "honest"
    for command in commands:
        discard(world)
        shutil.copytree(campaign.honest, world)
        run = lambda command=command: forked(world, command, campaign.proxy.environment, traced=campaign.traced > 0)  # noqa: E731
        ran, found = watched(world, command, run, campaign.proxy)
        if ran.code != 0:
            found.append(f"ends with {ran.code}: {ran.err.decode(errors='replace')[-500:]}")
        wrong += [f"{command.name} ({' '.join(command.args)}): {each}" for each in found]
    discard(world)
    return wrong
