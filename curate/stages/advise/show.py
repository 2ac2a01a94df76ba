"""Show advice: the plan before the race, and the result as a short screen, Markdown or JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ...runtime import markdown
from ...runtime.terminal import table, terminal_width
from .config import AdviseConfig
from .costs import Costs
from .methods import CONTROLS, RANDOM, Method
from .plan import RacePlan, amount

Row = dict[str, Any]


def plan_rows(plan: RacePlan, costs: Costs, axis: str) -> list[Row]:
    """Return a row per method of the plan: rounds, steps of a run, and what a run is expected to spend."""
    methods: Sequence[Method] = (*CONTROLS.values(), *plan.candidates)
    random = CONTROLS[RANDOM]
    rows = []
    for method in methods:
        steps = costs.steps(method, plan.unit, random)
        row: Row = {"method": method.label, "role": method.role, "steps of a run": steps}
        row["tokens of a run"] = round(steps * costs.tokens_of(method))
        if axis != "tokens":
            row[f"{axis} of a run"] = float(f"{steps * costs.step(method):.3g}")
            row[f"{axis} before"] = float(f"{sum(costs.once(method).values()):.3g}")
        rows.append(row)
    return rows


def show_plan(config: AdviseConfig, plan: RacePlan, costs: Costs) -> str:
    """Return the plan as text, in the format of `--format`."""
    rows = plan_rows(plan, costs, config.axis)
    rounds = [
        {
            "round": number,
            "kind": each.kind,
            "candidates": each.candidates,
            "new seeds": len(each.new),
            "seeds": len(each.seeds),
            "rows": plan.rows,
        }
        for number, each in enumerate(plan.rounds, 1)
    ]
    share = config.share * config.budget
    lines = [
        f"The race may spend {amount(share, config.axis)}, {config.share:.0%} of the budget, and is expected to spend "
        f"at most {amount(plan.cost, config.axis)}. Figures are estimates; nothing is made.",
        *(f"'{label}' will not race: {reason}." for label, reason in plan.left_out.items()),
        f"The full run: about {costs.full_steps(CONTROLS[RANDOM])} steps of random.",
    ]
    if config.format == "json":
        return json.dumps({"methods": rows, "rounds": rounds, "cost": plan.cost, "share": share, "notes": lines})
    if config.format == "markdown":
        return "\n\n".join([_markdown(rounds), _markdown(rows), *map(markdown.text, lines)])
    wrapped = [part for line in lines for part in textwrap.wrap(line, terminal_width())]
    return "\n".join([*table(rounds), "", *table(rows), "", *wrapped])


def race_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return a row per round and method: its seeds, what a run spent, and its mean loss; best first."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for run in result["runs"]:
        groups.setdefault((run["round"], run["method"]), []).append(run)
    rows = []
    for (number, method), own in groups.items():
        row: Row = {"round": "verdict" if own[0]["stage"] == "verdict" else str(number), "method": method}
        row |= {"seeds": len(own), "steps": round(fmean(run["steps"] for run in own))}
        row |= {"tokens": round(fmean(run["tokens"] for run in own))}
        row |= {"seconds": fmean(run["seconds"] for run in own), "loss": round(fmean(run["loss"] for run in own), 4)}
        row["next"] = "" if own[0]["role"] == "control" or own[0]["stage"] == "verdict" else own[0]["kept_for_next"]
        rows.append((number, row["loss"], row))
    return [row for _, _, row in sorted(rows, key=lambda each: each[:2])]


def verdict_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return a row per control of the verdict."""
    return [
        {
            "winner": each["method"],
            "against": each["control"],
            "difference": f"{each['difference']:+.4f}",
            "low to high": f"{each['low']:+.4f} to {each['high']:+.4f}",
            "verdict": each["verdict"],
        }
        for each in result["verdicts"]
    ]


def closing(result: Mapping[str, Any]) -> list[str]:
    """Return the sentences below the tables: the verdict, what was spent and saved, notes, the full run."""
    axis = result["axis"]
    spent = result["spent"]
    lines = [result["sentence"]]
    lines.append(
        f"Choosing took {amount(spent['seconds'], 'seconds')} and trained on {spent['tokens']:,.0f} tokens; "
        f"{result['share']:.0%} of the budget is {amount(result['share'] * result['budget'], axis)}."
    )
    for each in result["verdicts"]:
        saved = [
            f"{abs(each[f'{axis}_saved']):,.0f} {axis} {'less' if each[f'{axis}_saved'] >= 0 else 'more'}"
            for axis in ("tokens", "seconds")
            if each[f"{axis}_saved"] is not None
        ]
        if saved and each["control"] == RANDOM:
            lines.append(
                f"To reach the loss of a full run of random, {result['advised']} needs about {' and '.join(saved)}, "
                "choosing included, if it saves the same share there as in the short runs."
            )
    lines += [f"{note['kind']}: {note['detail']}" for note in result["notes"]]
    return lines


def show_result(result: Mapping[str, Any], output_format: str) -> str:
    """Return a result as text, in the format `table`, `markdown` or `json`."""
    if output_format == "json":
        return json.dumps(result, indent=2)
    rows, verdicts, full = race_rows(result), verdict_rows(result), result["command"]
    if output_format == "markdown":
        parts = [f"# {markdown.text(result['advice'])}", _markdown(rows), _markdown(verdicts)]
        parts += [f"- {markdown.text(line)}" for line in closing(result)]
        return "\n\n".join([*parts, f"```sh\n{full}\n```"])
    lines = [*table(rows), "", *table(verdicts), ""]
    for line in closing(result):
        lines += textwrap.wrap(line, terminal_width())
    return "\n".join([*lines, "", "The full run:", full])


def _markdown(rows: Sequence[Row]) -> str:
    heads = list(rows[0])
    cells = [[markdown.text(str(row[head])) for head in heads] for row in rows]
    return markdown.table([markdown.text(head) for head in heads], cells, right=[])
