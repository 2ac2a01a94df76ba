"""The content of the page of `curate watch`: the object that the report's app draws, for one run so far.

Every part has the form of the report's part of the same name, so one script draws both. `live` has what only a run that
trains has: its state, the rows of the newest step, spikes, and the SQL of each picture.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.curves import SECONDS, TAIL, histogram_statement
from ..report.found_runs import State
from ..report.payload import VERSION, compact
from ..report.provenance import provenance
from ..version import __version__
from .curve_sums import CurveSums
from .follower import BINS, MOST_ROWS, RunFollower
from .statements import BY_LOSS, BY_SCORE, GROUPS, METRIC, SCORES, STEPS, TURNS, for_user, members_of, rows_statement
from .texts import PoolTexts

EMPTY: dict[str, Any] = {
    **{"agreement": None, "map": None, "leaks": [], "copies": [], "advice": [], "comparisons": [], "evaluations": []},
    "samples": {"total": 0, "shown": 0, "cut": 0, "id": [], "position": [], "prompt": [], "answer": [], "tokens": []}
    | {"labels": {}, "runs": []},
}
"""The parts of a report that a page of a run that trains does not show."""


class LiveContent:
    """Make the content of the page again and again.

    Args:
        follower: the records of the run.
    """

    def __init__(self, follower: RunFollower) -> None:
        self.follower = follower
        self._texts: PoolTexts | None = None
        self._about: dict[str, Any] | None = None

    def make(self, state: State, sentence: str) -> dict[str, Any]:
        """Return the content as JSON values.

        Args:
            state: state of the run.
            sentence: what the page says about the state.
        """
        follower = self.follower
        if self._about is None:
            self._about = provenance(follower.context)[0]
        numbers = self._numbers()
        content = {
            "runs": [{**self._about, **numbers, "missing": self._missing(numbers)}],
            "groups": [each.against_chance() for each in follower.groups] if follower.step else [],
            "live": {
                "state": state,
                "sentence": sentence,
                "total_steps": follower.metrics.last("total_steps"),
                "step_seconds": follower.metrics.curve("step_seconds"),
                "candidate_loss": follower.curves.curve("candidate_loss"),
                "kept_loss": follower.curves.curve("kept_loss"),
                "by": [each.grouping.by for each in follower.groups],
                "lines": [each.curves(follower.curves) for each in follower.groups],
                "quantiles": self._quantiles(),
                "window": [follower.window_begin + 1, follower.step],
                "now": self._now(),
                "spikes": self._spikes(),
                "all_spikes": follower.all_spikes,
                "sql": self.statements(),
            },
        }
        about = {
            "version": VERSION,
            "title": follower.label,
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "curate": __version__,
            "notes": [note for note in follower.context.notes if "is not finished" not in note],
            "missing": follower.context.missing,
        }
        return {**about, **EMPTY, **{key: compact(value) for key, value in content.items()}}

    def statements(self) -> dict[str, str]:
        """Return section/title of a picture -> the SQL that returns its numbers for all steps so far."""
        label = self.follower.public_label()
        run = {"run": label, "after": 0}
        steps = for_user(STEPS, run)
        found = {
            "curves/Held-out loss": for_user(METRIC, {**run, "metric": "eval_loss"}),
            "curves/Training loss": for_user(METRIC, {**run, "metric": "loss"}),
            "time/Seconds of a step": for_user(METRIC, {**run, "metric": "step_seconds"}),
            "time/Time by part": for_user(SECONDS, {"runs": [label]}),
        }
        for title in ("Loss before the step", "Kept share of the candidates", "Kept share of the candidates' tokens"):
            found[f"curves/{title}"] = steps
        for name, column in self.follower.score_columns().items():
            title = _titled(name)
            found[f"scores/{title}"] = found[f"scores/{title}: spread"] = for_user(SCORES.format(column=column), run)
            more = f"AND step > {self.follower.window_begin}"
            given = {"runs": [label], "tail": TAIL, "most": BINS}
            found[f"distributions/{title}"] = for_user(histogram_statement(column, more), given)
        for each in self.follower.groups:
            sql = for_user(GROUPS.format(members=members_of(each.grouping)), run)
            for title in (f"Loss of the candidates by {each.grouping.by}, before each step",
                          f"Share of the candidates by {each.grouping.by}",
                          f"Share of the kept samples by {each.grouping.by}", f"By {each.grouping.title}"):  # fmt: skip
                found[f"kept/{title}"] = sql
        members = [members_of(each.grouping) for each in self.follower.groups]
        shown = {"run": label, "most": MOST_ROWS}
        for kept, title in ((True, "Kept"), (False, "Not kept")):
            given = {**shown, "step": self.follower.step, "kept": kept}
            found[f"now/{title}"] = for_user(rows_statement(members, BY_SCORE), given)
        for spike, _ in self.follower.spikes:
            given = {**shown, "step": spike.step, "kept": True}
            found[f"spikes/Step {spike.step:,}"] = for_user(rows_statement(members, BY_LOSS), given)
        return found

    def _numbers(self) -> dict[str, Any]:
        """Return the numbers of the run in the form of `report.curves`."""
        follower, curves = self.follower, self.follower.curves
        kept, tokens = curves.curve("kept"), curves.curve("kept_tokens")
        scores = [
            {"name": name, **_two_sides(curves, name)}
            for name in follower.score_columns()
            if curves.curve(f"{name}/kept") or curves.curve(f"{name}/passed")
        ]
        return {
            "steps": follower.step,
            **follower.totals,
            "loss": follower.metrics.curve("loss"),
            "eval": follower.metrics.curve("eval_loss"),
            "kept_share": None if kept is None else {**kept, "tokens": _at(kept["step"], tokens)},
            "labels": [],
            "scores": scores,
            "distributions": follower.distributions(),
            "time": follower.seconds(),
            "prescreen": None,
        }

    def _missing(self, numbers: Mapping[str, Any]) -> dict[str, str]:
        """Return for each part without numbers the reason."""
        going = self.follower.run.made_at is None
        config = self.follower.run.config
        found = {}
        if numbers["eval"] is None:
            measured = bool(config.get("eval_pool")) and going
            found["eval"] = (
                "The held-out loss was not measured yet."
                if measured
                else "This run measures no held-out loss. curate train measures it with --eval-pool and --eval-steps."
            )
        if numbers["loss"] is None:
            every = config.get("logging_steps")
            found["loss"] = (
                f"The training loss was not logged yet{f': it is every {every} steps' if every else ''}."
                if going and self.follower.run.stage == "train"
                else "This run has logged no training loss."
            )
        if not numbers["scores"]:
            found["scores"] = found["distributions"] = (
                "No candidate was scored yet." if not self.follower.step else "This run scores no candidates."
            )
        if not numbers["time"]:
            found["time"] = "No times are known yet." if going else "This run logged no times."
        return found

    def _quantiles(self) -> list[dict[str, Any]]:
        curves = self.follower.curves
        found = []
        for name in self.follower.score_columns():
            parts = {part: curves.curve(f"{name}/{part}") for part in ("low", "middle", "high")}
            if all(parts.values()):
                found.append({"name": name, **parts})
        return found

    def _now(self) -> dict[str, Any] | None:
        """Return the newest step with its best rows of each side."""
        step = self.follower.step
        if not step or step <= self.follower.window_begin:
            return None
        kept, passed = (self.follower.rows(step, BY_SCORE, kept=side) for side in (True, False))
        return {"step": step, "kept": self._with_texts(kept), "passed": self._with_texts(passed)}

    def _spikes(self) -> list[dict[str, Any]]:
        return [{**vars(spike), "rows": self._with_texts(rows)} for spike, rows in reversed(list(self.follower.spikes))]

    def _with_texts(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return rows with the texts and the labels of their samples."""
        if self._texts is None:
            self._texts = PoolTexts(self.follower.context.pool)
        ids = [row["sample_id"] for row in rows]
        turns = {
            row["sample_id"]: row["turn"] for row in self.follower.session.ask(TURNS, {"ids": ids}).to_pylist() if ids
        }
        found = []
        for row in rows:
            prompt, answer = self._texts.of(row["position"], turns.get(row["sample_id"]))
            labels = [row[f"label_{number}"] for number in range(len(self.follower.groups))]
            shown = {key: row[key] for key in ("sample_id", "position", "score", "loss", "tokens", "weight")}
            found.append({**shown, "prompt": prompt, "answer": answer, "labels": labels})
        return found


def _two_sides(curves: CurveSums, name: str) -> dict[str, list[Any]]:
    """Return the means of a score for kept and other candidates on the same steps; None where there is none."""
    sides = {side: curves.curve(f"{name}/{side}") for side in ("kept", "passed")}
    steps = sorted({step for side in sides.values() if side for step in side["step"]})
    return {"step": steps, **{side: _at(steps, curve) for side, curve in sides.items()}}


def _at(steps: Sequence[int], curve: Mapping[str, Sequence[Any]] | None) -> list[Any]:
    """Return the values of a curve at these steps; None where it has no point."""
    values = dict(zip(curve["step"], curve["value"], strict=True)) if curve else {}
    return [values.get(step) for step in steps]


def _titled(name: str) -> str:
    """Return the title that the page gives to a score."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
