"""Observations in the data: copies, leaks, long rows, sources, and candidates that did not race."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...store import Artifact
from .plan import RacePlan
from .race import Race

LEAST_OF_SOURCE = 8
"""Held-out rows of a source below which it gets no note."""

LONG = """
SELECT count(DISTINCT sample_id) AS offered, count(DISTINCT sample_id) FILTER (tokens >= $longest) AS long
FROM ledger JOIN artifacts ON name = run WHERE list_contains($runs, fingerprint)
"""

BY_SOURCE = """
SELECT slice AS source, value AS loss, samples FROM evaluations JOIN artifacts ON name = evaluation
WHERE fingerprint = $evaluation AND metric = 'loss' AND grouped_by = 'source'
"""


@dataclass(frozen=True)
class Note:
    """An observation: its kind, the number of rows (or null), and a sentence."""

    kind: str
    count: int | None
    detail: str


def notes_of(race: Race, plan: RacePlan, winner: str) -> list[Note]:
    """Return the observations, in order."""
    return [*_copies(race), *_long(race), *_sources(race, winner), *_left_out(plan)]


def _copies(race: Race) -> Iterator[Note]:
    parts = {part: race.artifacts.made[race.tasks.name(part)] for part in race.tasks.pools()}
    found = parts["train"].summary
    pool = race.config.pool
    repeats, groups = int(found.get("rows that hold a sample again", 0)), int(found.get("groups of copies", 0))
    if repeats + groups:
        detail = (
            f"{repeats} rows of '{pool}' hold a sample again, and {groups} groups of samples are copies of each "
            "other, or nearly so."
        )
        yield Note("duplicates", repeats + groups, detail)
    if leaks := int(found.get("samples with a copy in the other pool", 0)):
        other = race.config.eval_pool or race.config.target
        yield Note(
            "leak", leaks, f"{leaks} samples of '{pool}' are copies of rows of '{other}' and are not trained on."
        )
    target = parts.get("target")
    if target is not None and (leaks := int(target.summary.get("samples with a copy in the other pool", 0))):
        names = f"'{race.config.target}' are copies of rows of '{race.config.eval_pool}'"
        detail = f"{leaks} samples of {names} and are not used."
        yield Note("leak", leaks, detail)
    if against := int(found.get("contradictions", 0)):
        yield Note(
            "contradictions",
            against,
            f"{against} samples of '{pool}' answer a question otherwise than another sample: curate dedup lists them.",
        )


def _long(race: Race) -> Iterator[Note]:
    """Yield how many of the samples that runs were offered reach --max-length, and how many were rejected."""
    runs = [each for each in race.artifacts.made.values() if each.stage == "train"]
    longest = int(runs[0].config["max_length"])
    parameters = {"longest": longest, "runs": [run.fingerprint for run in runs]}
    row = race.inputs.store.query(LONG, parameters).to_pylist()[0]
    if row["long"]:
        share = row["long"] / row["offered"]
        yield Note(
            "long",
            row["long"],
            f"{row['long']} of the {row['offered']} samples that runs were offered ({share:.1%}) have {longest} "
            "tokens, the most that is read, so most of them are cut: --train max_length=N cuts later.",
        )
    on_pool = [run for run in runs if run.config["pool"] == race.tasks.name("train")]
    if rejected := max(int(run.summary.get("rejected", 0)) for run in on_pool):
        yield Note("rejected", rejected, f"{rejected} rows have nothing to train on: see the table rejects.")


def _sources(race: Race, winner: str) -> Iterator[Note]:
    """Yield by source how training changes the held-out loss, if there are several sources."""
    assert race.start is not None
    before = _by_source(race, race.start)
    if len(before) < 2:
        return
    after = {label: _means(race, label) for label in ("random", winner)}
    for source, (loss, samples) in before.items():
        if samples < LEAST_OF_SOURCE or any(source not in own for own in after.values()):
            continue
        changes = {label: own[source] - loss for label, own in after.items()}
        effect = "hurts" if changes["random"] > 0 else "helps"
        others = "".join(f", with {label} by {change:+.3f}" for label, change in changes.items() if label != "random")
        yield Note(
            "source",
            samples,
            f"Training {effect} on '{source}': with random its loss changes by {changes['random']:+.3f}{others} "
            f"({samples} held-out rows).",
        )


def _by_source(race: Race, evaluation: Artifact) -> Mapping[str, tuple[float, int]]:
    rows = race.inputs.store.query(BY_SOURCE, {"evaluation": evaluation.fingerprint}).to_pylist()
    return {str(row["source"]): (float(row["loss"]), int(row["samples"])) for row in rows}


def _means(race: Race, label: str) -> Mapping[str, float]:
    """Return source -> mean loss over the runs of a method in the verdict."""
    found: dict[str, list[float]] = {}
    for run in race.runs:
        if run.stage == "verdict" and run.method == label:
            name = race.name_of(run)
            for source, (loss, _) in _by_source(race, race.artifacts.made[f"{name}-verdict"]).items():
                found.setdefault(source, []).append(loss)
    return {source: float(np.mean(losses)) for source, losses in found.items()}


def _left_out(plan: RacePlan) -> Iterator[Note]:
    for label, reason in plan.left_out.items():
        yield Note("left out", None, f"'{label}' did not race: {reason}. A larger --share would do, or --methods.")
