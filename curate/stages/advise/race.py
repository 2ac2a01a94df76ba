"""Run a race: rounds on short runs, then the verdict on the winner with seeds and rows that no round used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import DataError
from ...log import LOGGER
from ...numerics.race import Comparison, Round, saved, verdict
from ...store import Artifact, Draft
from ..inputs import Inputs
from .config import AdviseConfig
from .costs import Costs, Prices, full_budget, prices_without_clock, weights_of
from .losses import HeldOut, Spent, held_out, spent_by
from .making import Artifacts
from .methods import AS_LONG, CONTROLS, FULL, RANDOM, Method, candidates_of
from .plan import PROBE_STEPS, SPEED_STEPS, RacePlan, amount, plan_race
from .tasks import FIRST_VERDICT_SEED, Tasks

LEAST_ROWS = 8
"""Rows that a held-out part needs."""
FIRST_LOOK = 32
"""Held-out rows that the model is measured on before the plan, which prices a forward pass."""

LENGTH = "SELECT avg(tokens) AS length FROM ledger WHERE run = $run"


def require_rows(rows: int, part: str) -> None:
    """Raise `DataError` if a held-out part has too few rows."""
    if rows < LEAST_ROWS:
        raise DataError(
            f"Only {rows} rows can be held out for the {part}, and it needs {LEAST_ROWS}: name an --eval-pool with "
            "more rows."
        )


@dataclass(frozen=True)
class ShortRun:
    """A run of the race or of the verdict.

    Attributes:
        stage: race or verdict.
        round: number of the round, from 1; the verdict is the last.
        method: label of the method.
        role: control or candidate.
        seed: seed of the run.
        run: the artifact of the run.
        spent: what it spent.
        loss: its held-out loss on the rows of the race or of the verdict, in nats per target token.
        kept: True if the method is in the next round.
    """

    stage: str
    round: int
    method: str
    role: str
    seed: int
    run: Artifact
    spent: Spent
    loss: float
    kept: bool


@dataclass(frozen=True)
class Judged:
    """The verdict on the winner against one control.

    Attributes:
        control: label of the control.
        comparison: difference of losses with its interval.
        saved: axis (tokens, seconds) -> share of the control's amount that the method does not need to reach its loss;
            None if it does not reach it.
    """

    control: str
    comparison: Comparison
    saved: dict[str, float | None]


@dataclass
class Race:
    """A race.

    Attributes:
        config: options of the advice.
        inputs: its inputs.
        artifacts: makes the artifacts.
        tasks: the tasks of the advice.
        weights: number of weights of the model, if they can be counted.
        costs: what methods cost.
        runs: the runs so far.
        judged: the verdicts.
        start: the losses of the model before training, on the rows of the verdict.
        spent: fingerprint of a run -> what it has spent.
    """

    config: AdviseConfig
    inputs: Inputs
    artifacts: Artifacts
    tasks: Tasks
    weights: int | None
    costs: Costs
    runs: list[ShortRun] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    start: Artifact | None = None
    spent: dict[str, Spent] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: AdviseConfig, inputs: Inputs, draft: Draft, tasks: Tasks) -> Race:
        """Make the pools, measure the model before training, and the price of a token.

        Raises:
            DataError: there are too few held-out rows.
        """
        artifacts = Artifacts(inputs.store, draft.path)
        for part, task in tasks.pools().items():
            pool = artifacts.make(tasks.name(part), task)
            if part in ("race", "verdict"):
                require_rows(pool.rows or 0, part)
        look, task = tasks.evaluation(
            config.model, "race", min(FIRST_LOOK, artifacts.made[tasks.name("race")].rows or 0)
        )
        artifacts.make(look, task)
        weights = weights_of(config, inputs.locations["model"])
        speed, task = tasks.run(CONTROLS[RANDOM], SPEED_STEPS, config.seed)
        run = artifacts.make(speed, task)
        spent = spent_by(inputs.store, run, weights)
        by_run = {run.fingerprint: spent}
        name = inputs.store.display_names()[run.fingerprint]
        length = float(inputs.store.query(LENGTH, {"run": name})["length"][0].as_py())
        if config.axis == "seconds":
            measured = artifacts.made[look]
            forward = float(measured.summary["seconds"]["loss"]) / ((measured.rows or 1) * length)
            overhead = max(artifacts.overhead(speed), artifacts.overhead(look))
            prices = Prices(spent.seconds / spent.tokens, forward, overhead)
        else:
            prices = prices_without_clock(config, weights)
        target = artifacts.made.get(tasks.name("target"))
        rows = artifacts.made[tasks.name("train")].rows or 0
        target_rows = (target.rows or 0) if target else 0
        costs = Costs(prices, length, rows, target_rows, tasks.keep, tasks.candidates, full_budget(config))
        race = cls(config, inputs, artifacts, tasks, weights, costs, spent=by_run)
        race._measure([(CONTROLS[RANDOM], spent)])
        return race

    def plan(self) -> RacePlan:
        """Plan the race: first from prices, then from a few steps of each candidate."""
        candidates = candidates_of(self.config.methods, with_target=self.config.target is not None)
        rows = min(self.artifacts.made[self.tasks.name(part)].rows or 0 for part in ("race", "verdict"))
        first = plan_race(self.config, candidates, self.costs, rows)
        spent = []
        for method in first.candidates:
            for name, task in self.tasks.preparations(method, self.inputs.store):
                self.artifacts.make(name, task)
            name, task = self.tasks.run(method, PROBE_STEPS, self.config.seed)
            spent.append((method, self.spent_by(self.artifacts.make(name, task))))
        self._measure(spent)
        planned = plan_race(self.config, first.candidates, self.costs, rows)
        return replace(planned, left_out=first.left_out | planned.left_out)

    def _measure(self, spent: Sequence[tuple[Method, Spent]]) -> None:
        """Replace the estimated cost of a step by that of runs: of several runs of a method their mean."""
        by_method: dict[str, list[Spent]] = {}
        for method, each in spent:
            by_method.setdefault(method.label, []).append(each)
        steps = {label: sum(each.steps for each in own) for label, own in by_method.items()}
        axis = self.config.axis
        measured = {label: sum(each.on(axis) for each in own) / steps[label] for label, own in by_method.items()}
        tokens = {label: sum(each.tokens for each in own) / steps[label] for label, own in by_method.items()}
        self.costs = replace(
            self.costs, measured={**self.costs.measured, **measured}, tokens={**self.costs.tokens, **tokens}
        )

    def run(self, plan: RacePlan) -> Method:
        """Run all rounds and the verdict, and return the winner."""
        left = list(plan.candidates)
        for number, each in enumerate(plan.rounds[:-1], 1):
            left = self._round(plan, number, each, left, plan.rounds[number].candidates)
        winner = left[0]
        self._refine(winner)
        self._verdict(plan, winner, plan.rounds[-1])
        return winner

    def _refine(self, winner: Method) -> None:
        """Measure the cost of a step of the winner and of random from all of their runs in the race."""
        for method in (winner, CONTROLS[RANDOM]):
            if own := [(method, run.spent) for run in self.runs if run.method == method.label]:
                self._measure(own)

    def _round(self, plan: RacePlan, number: int, planned: Round, left: list[Method], survive: int) -> list[Method]:
        """Run a round, and return the candidates that are left after it."""
        methods = [CONTROLS[RANDOM], CONTROLS[FULL], *left]
        evaluations = {
            method.label: [self._measured(method, plan, self.config.seed + seed, "race")[1] for seed in planned.seeds]
            for method in methods
        }
        together = held_out([each for own in evaluations.values() for each in own])
        means = together.means().reshape(len(methods), len(planned.seeds))
        order = np.argsort(means[2:].mean(1), kind="stable")
        kept = [left[place] for place in order[:survive].tolist()]
        for row, method in enumerate(methods):
            stays = method.role == "control" or method in kept
            for place, seed in enumerate(planned.seeds):
                if seed in planned.new:
                    self._record("race", number, method, plan, self.config.seed + seed, float(means[row, place]), stays)
        self._as_long(plan, number, planned, kept[0])
        LOGGER.info(f"round {number}: {', '.join(method.label for method in kept)} of {len(left)} candidates go on")
        return kept

    def _as_long(self, plan: RacePlan, number: int, planned: Round, leader: Method) -> None:
        """Run random samples as long as those of the best candidate, on the new seeds of a round."""
        seeds = [self.config.seed + seed for seed in planned.new]
        evaluations = [self._measured(leader, plan, seed, "race", as_long=True)[1] for seed in seeds]
        for seed, loss in zip(seeds, held_out(evaluations).means().tolist(), strict=True):
            self._record("race", number, CONTROLS[AS_LONG], plan, seed, loss, True, leader)

    def _names(
        self, method: Method, plan: RacePlan, seed: int, *, as_long: bool, steps: int | None = None
    ) -> tuple[str, Any]:
        steps = steps or self.costs.steps(method, plan.unit, CONTROLS[RANDOM])
        if not as_long:
            return self.tasks.run(method, steps, seed)
        leader = self.tasks.run_name(method, steps, seed)
        name = f"{leader}-as-long"
        values = self.tasks.options(CONTROLS[AS_LONG], steps, seed, leader=leader)
        return name, self.tasks.task("train", name, values)

    def _measured(
        self, method: Method, plan: RacePlan, seed: int, part: str, *, as_long: bool = False, steps: int | None = None
    ) -> tuple[Artifact, Artifact]:
        """Return a run, and its held-out losses on the race or the verdict rows."""
        name, task = self._names(method, plan, seed, as_long=as_long, steps=steps)
        run = self.artifacts.make(name, task)
        return run, self.artifacts.make(*self.tasks.evaluation(name, part, plan.rows))

    def _record(
        self,
        stage: str,
        number: int,
        method: Method,
        plan: RacePlan,
        seed: int,
        loss: float,
        kept: bool,
        leader: Method | None = None,
    ) -> None:
        name, _ = self._names(leader or method, plan, seed, as_long=leader is not None)
        self._add(stage, number, method, seed, self.artifacts.made[name], loss, kept)

    def _add(self, stage: str, number: int, method: Method, seed: int, run: Artifact, loss: float, kept: bool) -> None:
        spent = self.spent_by(run)
        self.runs.append(ShortRun(stage, number, method.label, method.role, seed, run, spent, loss, kept))

    def _verdict(self, plan: RacePlan, winner: Method, planned: Round) -> None:
        """Train the winner and the controls on new seeds, and compare them on rows that no round used."""
        seeds = [self.config.seed + FIRST_VERDICT_SEED + place for place in range(len(planned.new))]
        name, task = self.tasks.evaluation(self.config.model, "verdict", plan.rows)
        self.start = self.artifacts.make(name, task)
        random, as_long = CONTROLS[RANDOM], CONTROLS[AS_LONG]
        own = [self._measured(winner, plan, seed, "verdict") for seed in seeds]
        others: list[tuple[Artifact, Artifact]] = []
        for seed, (run, _) in zip(seeds, own, strict=True):
            steps = self._equal_steps(winner, run, [made for made, _ in others])
            others.append(self._measured(random, plan, seed, "verdict", steps=steps))
        matched = [self._measured(winner, plan, seed, "verdict", as_long=True) for seed in seeds]
        found = held_out([self.start, *(measured for _, measured in (*own, *others, *matched))])
        blocks = [found.losses[1 + place * len(seeds) : 1 + (place + 1) * len(seeds)] for place in range(3)]
        for method, made, losses in zip((winner, random, as_long), (own, others, matched), blocks, strict=True):
            means = HeldOut(losses, found.tokens).means().tolist()
            for seed, (run, _), loss in zip(seeds, made, means, strict=True):
                self._add("verdict", len(plan.rounds), method, seed, run, loss, True)
        before = float(found.means()[0])
        for method, control in zip((random, as_long), blocks[1:], strict=True):
            comparison = verdict(blocks[0], control, found.tokens, seed=self.config.seed)
            self.judged.append(Judged(method.label, comparison, self._saved(winner.label, method.label, before)))

    def _equal_steps(self, winner: Method, run: Artifact, others: Sequence[Artifact]) -> int:
        """Return the steps in which random spends as much as a run of the winner, its share of preparations included.

        Args:
            winner: the winner.
            run: its run.
            others: runs of random for the verdict so far; they tell what its steps cost, with those of the race.
        """
        spent = [each.spent for each in self.runs if each.method == RANDOM] + [self.spent_by(each) for each in others]
        axis, steps = self.config.axis, sum(each.steps for each in spent)
        step = sum(each.on(axis) for each in spent) / steps if steps else self.costs.step(CONTROLS[RANDOM])
        return max(1, round(self.spent_by(run).on(axis) / self.costs.left(winner) / step))

    def _saved(self, method: str, control: str, before: float) -> dict[str, float | None]:
        """Return the share of a control's tokens and seconds that the method does without, mean over seeds.

        Between the loss before training and that at the end the loss is taken as linear in what was spent. Losses fall
        fastest at first, so a method reaches the control's loss earlier than this says.
        """
        own = [run for run in self.runs if run.stage == "verdict" and run.method == method]
        other = [run for run in self.runs if run.stage == "verdict" and run.method == control]
        shares: dict[str, float | None] = {}
        for axis in ("tokens", "seconds"):
            found = []
            for mine, theirs in zip(own, other, strict=True):
                end = theirs.spent.on(axis)
                less = saved(([0.0, mine.spent.on(axis)], [before, mine.loss]), ([0.0, end], [before, theirs.loss]))
                found.append(None if less is None or not end else less / end)
            known = [each for each in found if each is not None]
            shares[axis] = float(np.mean(known)) if len(known) == len(found) else None
        return shares

    def name_of(self, run: ShortRun) -> str:
        """Return the name under which the race made a run."""
        return next(name for name, made in self.artifacts.made.items() if made.fingerprint == run.run.fingerprint)

    def spent_by(self, run: Artifact) -> Spent:
        """Return what a run has spent; it is read once."""
        if run.fingerprint not in self.spent:
            self.spent[run.fingerprint] = spent_by(self.inputs.store, run, self.weights)
        return self.spent[run.fingerprint]

    def spent_ratio(self, winner: Method) -> float:
        """Return what random spent in the verdict, as a share of what the winner spent, its preparations included."""
        totals = {
            label: sum(
                run.spent.on(self.config.axis) for run in self.runs if (run.stage, run.method) == ("verdict", label)
            )
            for label in (winner.label, RANDOM)
        }
        return totals[RANDOM] * self.costs.left(winner) / totals[winner.label]

    def choosing(self, axis: str) -> float:
        """Return what the advice has spent: seconds of together, tokens that runs trained on, or operations."""
        if axis == "seconds":
            return sum(self.artifacts.seconds[name] for name in self.artifacts.made)
        runs = [artifact for artifact in self.artifacts.made.values() if artifact.stage == "train"]
        return sum(self.spent_by(run).on(axis) for run in runs)

    def tell(self, plan: RacePlan) -> None:
        """Log the plan before the race begins."""
        share = amount(self.config.share * self.config.budget, self.config.axis)
        names = ", ".join(method.label for method in plan.candidates)
        LOGGER.info(
            f"The race may spend {share} ({self.config.share:.0%} of the budget) and is planned to spend "
            f"{amount(plan.cost, self.config.axis)}: {len(plan.rounds) - 1} rounds of {names} against random, full and "
            f"random as long, in runs that cost as much as {plan.unit} steps of random, measured on {plan.rows} rows; "
            f"then {len(plan.rounds[-1].new)} seeds for the verdict."
        )
