"""The result of advice: what is advised and why, as the content of `advice.json` and as records of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from ...runtime.terminal import command
from ...store import Draft
from ..train.config import TrainConfig
from .methods import AS_LONG, CONTROLS, RANDOM, Method
from .notes import Note
from .plan import RacePlan
from .race import Judged, Race

RUNS = pa.schema(
    [
        *((name, pa.string()) for name in ("stage", "method", "role", "run")),
        *((name, pa.int64()) for name in ("round", "seed", "steps", "samples", "tokens")),
        *((name, pa.float64()) for name in ("seconds", "flops", "loss")),
        ("kept_for_next", pa.bool_()),
    ]
)
VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "control", "verdict")),
        *((name, pa.int64()) for name in ("rows", "seeds")),
        *((name, pa.float64()) for name in ("difference", "low", "high", "level", "tokens_saved", "seconds_saved")),
    ]
)
NOTES = pa.schema([("kind", pa.string()), ("count", pa.int64()), ("detail", pa.string())])

AT = {"seconds": "time", "tokens": "tokens", "flops": "operations"}


def result_of(race: Race, plan: RacePlan, winner: Method, notes: Sequence[Note]) -> dict[str, Any]:
    """Return the content of `advice.json`."""
    config = race.config
    better = all(each.comparison.verdict == "better" for each in race.judged)
    advised = winner if better else CONTROLS[RANDOM]
    steps = race.costs.full_steps(advised)
    options = race.tasks.options(advised, steps, config.seed)
    return {
        "advice": config.name,
        "axis": config.axis,
        "budget": config.budget,
        "share": config.share,
        "plan": {
            "unit": plan.unit,
            "rows": plan.rows,
            "candidates": [method.label for method in plan.candidates],
            "left_out": plan.left_out,
            "rounds": [_round(each) for each in plan.rounds],
            "cost": plan.cost,
        },
        "spent": {axis: race.choosing(axis) for axis in ("seconds", "tokens")},
        "runs": [_run(run) for run in race.runs],
        "verdicts": [_verdict(race, winner.label, each, better=better) for each in race.judged],
        "notes": [asdict(note) for note in notes],
        "winner": winner.label,
        "advised": advised.label,
        "sentence": sentence(winner.label, race.judged, config.axis),
        "full": options,
        "command": command("curate", "train", *words(options), "--name", f"{config.name}-full"),
    }


def _round(each: Any) -> dict[str, Any]:
    values = asdict(each)
    return {name: values[name] for name in ("kind", "candidates", "seeds", "new", "steps")}


def _run(run: Any) -> dict[str, Any]:
    spent = run.spent
    return {
        "stage": run.stage,
        "round": run.round,
        "method": run.method,
        "role": run.role,
        "seed": run.seed,
        "run": run.run.fingerprint,
        "steps": spent.steps,
        "samples": spent.samples,
        "tokens": int(spent.tokens),
        "seconds": spent.seconds,
        "flops": spent.flops,
        "loss": run.loss,
        "kept_for_next": run.kept,
    }


def _verdict(race: Race, winner: str, judged: Judged, *, better: bool) -> dict[str, Any]:
    """Return the entry of a verdict. What is saved is net of choosing, and only given for a method that is advised."""
    comparison = asdict(judged.comparison)
    names = ("rows", "seeds", "difference", "low", "high", "level", "verdict")
    entry = {"method": winner, "control": judged.control} | {name: comparison[name] for name in names}
    for axis in ("tokens", "seconds"):
        share = judged.saved[axis]
        known = better and share is not None
        entry[f"{axis}_saved"] = share * _full(race, axis) - race.choosing(axis) if known and share else None
    return entry


def _full(race: Race, axis: str) -> float:
    """Return the tokens or seconds of a full run of random."""
    random = CONTROLS[RANDOM]
    own = [run.spent for run in race.runs if run.method == RANDOM]
    return race.costs.full_steps(random) * sum(each.on(axis) for each in own) / sum(each.steps for each in own)


def sentence(winner: str, judged: Sequence[Judged], axis: str) -> str:
    """Return the verdict as a sentence for the user."""
    by_control = {each.control: each.comparison for each in judged}
    random, as_long = by_control[RANDOM], by_control[AS_LONG]
    where = f"on {random.rows} held-out rows over {random.seeds} seeds, which no round of the race had"
    difference = f"{random.difference:+.4f} ({random.low:+.4f} to {random.high:+.4f})"
    if random.verdict == "better" and as_long.verdict == "better":
        return (
            f"Use {winner}. At equal {AT[axis]} its loss differs from that of random by {difference}, and from that of "
            f"random samples as long by {as_long.difference:+.4f} ({as_long.low:+.4f} to {as_long.high:+.4f}), {where}."
        )
    if random.verdict == "better":
        return (
            f"Use random. {winner} differs from it by {difference} {where}, but from random samples of the same "
            f"lengths only by {as_long.difference:+.4f} ({as_long.low:+.4f} to {as_long.high:+.4f}): what helps may be "
            "length alone, which needs no selector."
        )
    how = "is worse" if random.verdict == "worse" else "is not shown to be better"
    return (
        f"Use random. The best of the race, {winner}, {how} at equal {AT[axis]}: its loss differs by {difference} "
        f"{where}. This is a good answer: random needs no scoring, and no other method is shown to earn its cost here."
    )


def words(options: Mapping[str, Any]) -> list[str]:
    """Return the options of a run as words of a command line."""
    found: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping):
            found += [word for key, part in value.items() for word in ("--set", f"{name}.{key}={part}")]
        elif name in TrainConfig.model_fields and value is not None:
            found += [f"--{flag}", str(value)]
    return found


def write_tables(draft: Draft, result: Mapping[str, Any]) -> None:
    """Add the records of the tables `advice_runs`, `advice_verdicts` and `advice_notes`."""
    draft.add("advice_runs", pa.Table.from_pylist(result["runs"], schema=RUNS))
    draft.add("advice_verdicts", pa.Table.from_pylist(result["verdicts"], schema=VERDICTS))
    draft.add("advice_notes", pa.Table.from_pylist(result["notes"], schema=NOTES))
