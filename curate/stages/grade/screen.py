"""Show what `curate grade` found on one screen: at most 40 lines of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...runtime.terminal import cell, command, table, terminal_width
from ...store.artifacts.files import REMEDY
from ...version import pip_install
from .grading import FLAGS

WIDTH, HEIGHT = 100, 40
"""Columns and lines of the screen."""
BEFORE_TEXT = 37
"""Columns of a line of examples before its text."""
NOTES = 5
"""Lines of notes on what was not measured or was joined, at most."""


def show_screen(found: Mapping[str, Any], path: Path, pool: str, name: str) -> str:
    """Return the screen as text.

    Args:
        found: content of the artifact's file; see `Survey.result`.
        path: the file, for an error.
        pool: name of the pool.
        name: name of the features.

    Raises:
        StoreError: the file does not have what curate writes.
    """
    try:
        return "\n".join(_lines(found, pool, name))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise StoreError(
            f"{path} is damaged: it is no result of curate grade ({type(error).__name__}). {REMEDY}"
        ) from None


def _lines(found: Mapping[str, Any], pool: str, name: str) -> list[str]:
    width = min(WIDTH, terminal_width())
    samples, flagged = int(found["samples"]), int(found["flagged"])
    repeated = f", {int(found['repeated_rows']):,} with the text of another" if "copies" in found["groups"] else ""
    lines = [
        f"{cell(pool)}: {int(found['rows']):,} rows{repeated}; {samples:,} samples graded as '{cell(name)}'",
        "sources    " + _shares(found["sources"], int(found["rows"]), int(found["more_sources"])),
    ]
    if found["languages"]:
        lines.append("languages  " + _shares(found["languages"], samples, int(found["more_languages"])))
    if words := found["words"]:
        spans = [f"{part} {' / '.join(f'{int(each):,}' for each in words[part])}" for part in ("prompt", "answer")]
        lines.append(f"words      {', '.join(spans)} (5 % / half / 95 % of the samples have at most)")
    lines = [line[: width - 1] + "…" if len(line) > width else line for line in lines]
    lines += _missing(found, width)[:NOTES]
    lines += ["", f"{flagged:,} samples ({_share(flagged, samples)}) have a flag; a sample may have several."]
    counts = dict(found["flags"].items())
    flags = {key: int(counts[key]) for key in FLAGS if key in counts}
    rows = [{"flag": key, "samples": n, "share": _share(n, samples), "what": FLAGS[key]} for key, n in flags.items()]
    for row in rows:
        if row["flag"] == "pii":
            row["what"] = ", ".join(f"{kind} {int(n)}" for kind, n in found["pii_kinds"].items())
    following = ["", "Next:", *_next(flags, pool, name)]
    if rows:
        lines += table(rows, width=width)
        examples = [
            {key: each[key] for key in ("flag", "position")}
            | {"sample_id": str(each["sample_id"])[:10], "text": _fitted(each, width - BEFORE_TEXT)}
            for each in found["examples"][: HEIGHT - len(lines) - len(following) - 3]
        ]
        lines += ["", *table(examples, width=width)]
    return [*lines, *following]


def _fitted(example: Mapping[str, Any], room: int) -> str:
    """Return the text of an example; of an unfinished one the end, which is what the flag is about."""
    text = str(example["text"])
    is_cut = example["flag"] == "unfinished" and len(text) > room
    return f"…{text[len(text) - max(room, 2) + 1 :]}" if is_cut else text


def _missing(found: Mapping[str, Any], width: int) -> list[str]:
    """Return what was not measured and why, and what was joined."""
    texts = []
    if found["not_installed"]:
        names = " and ".join(map(cell, found["not_installed"]))
        texts.append(f"not measured: {names}, whose packages are not installed: {pip_install('quality')}.")
    texts += [
        f"scores: {cell(key)} of {int(count):,} samples; the other {int(found['samples']) - int(count):,} have null."
        for key, count in list(found["scores"].items())[:3]
    ]
    if len(found["scores"]) > 3:
        texts.append(f"scores: {len(found['scores']) - 3} more columns.")
    if found["neighbours"] is not None:
        texts.append(f"neighbour_agreement: {int(found['neighbours']):,} samples have one.")
    return [part for text in texts for part in textwrap.wrap(text, width)]


def _next(flags: Mapping[str, int], pool: str, name: str) -> list[str]:
    """Return the commands to go on with; names of artifacts need no quotes."""
    where = f"features = '{name}'"
    lines = []
    if flags:
        lines.append(f'curate query "SELECT sample_id, flags FROM features WHERE {where} AND bad > 0"')
        query = f"SELECT sample_id FROM features WHERE {where} AND flags = ''"
        lines.append(f'curate subset --pool {pool} --sql "{query}" --name {name}-good')
    if {"copy", "contradiction"} & flags.keys():
        lines.append(command("curate", "dedup", "--pool", pool, "--name", f"{name}-dedup"))
    if not flags:
        lines.append(command("curate", "dedup", "--pool", pool, "--name", f"{name}-dedup") + "    # near copies, too")
    subset = ["--subset", f"{name}-good"] if flags else []
    lines.append(
        command("curate", "train", "--pool", pool, *subset, *f"--selector full --model MODEL --name {name}-run".split())
    )
    return lines


def _shares(counts: Mapping[str, Any], total: int, more: int) -> str:
    parts = [f"{cell(key) or '(none)'} {_share(int(count), total)}" for key, count in counts.items()]
    return ", ".join(parts) + (f", {more} more" if more else "")


def _share(count: int, total: int) -> str:
    return f"{100 * count / max(1, total):.1f} %"
