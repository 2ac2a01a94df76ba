"""Compare what a trainer read with what curate trains on; print a table, and fail on a difference that no card tells.

`python -m tests.neighbours.compare TRAINER FOLDER` reads FOLDER/plan.json and FOLDER/read.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOLD = {
    "llama-factory": {
        "line break": "a line break after the end of the turn",
        "spelled": "Special tokens that a text spells out become special tokens",
        "tools": "tools are written in its own way",
        "pieces": "piece by piece",
    },
    "ms-swift": {
        "line break": "a line break after the end of the turn",
        "spelled": "Special tokens that a text spells out become special tokens",
        "tools": "tools and calls are written by `--agent_template`",
    },
    "trl": {"spelled": "tokens that a text spells out become special tokens"},
    "axolotl": {
        "spelled": "tokens that a text spells out become special tokens",
        "length": "Axolotl drops rows that are longer than `sequence_len`",
    },
}
"""Trainer -> kind of difference -> the words of the card that tell it."""


def kind_of(expected: dict[str, Any], read: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the kind of the difference between what curate and the trainer train on; "" if there is none."""
    if expected["found"]:
        return "found"
    if expected["ids"] == read["ids"]:
        if expected["mask"] == read["mask"]:
            return ""
        pairs = zip(read["ids"], expected["mask"], read["mask"], strict=True)
        more = {tokenizer.decode([token]) for token, ours, theirs in pairs if ours != theirs and theirs}
        missing = any(ours and not theirs for ours, theirs in zip(expected["mask"], read["mask"], strict=True))
        return "line break" if more == {"\n"} and not missing else "mask"
    if expected["spelled"]:
        return "spelled"
    if expected["tools"]:
        return "tools"
    texts = [tokenizer.decode(ids).rstrip("\n") for ids in (expected["ids"], read["ids"])]
    if texts[0] == texts[1]:
        whole = (
            expected["ids"][: len(read["ids"])] == read["ids"] or read["ids"][: len(expected["ids"])] == expected["ids"]
        )
        return "line break" if whole else "pieces"
    return "text"


def compare(
    trainer: str, entry: dict[str, Any], read: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[str]]:
    """Return a row of the table, and the faults: differences that the card does not tell."""
    head = f"| {trainer} | {entry['pool']} | {entry['format']} | {len(entry['expected'])} |"
    if "refused" in entry:
        return f"{head} - | - | - | refused: {entry['refused'].split(':')[0]} |", []
    if isinstance(read, str):
        return f"{head} 0 | - | - | - |", [f"{entry['name']}: {' '.join(read.split())[:500]}"]
    taken = [each for each in entry["expected"] if all(effect != "skips" for effect, _ in each["found"])]
    faults, told = [], dict[str, int]()
    if trainer == "axolotl":
        short = [each for each in taken if len(each["ids"]) <= 512]
        told |= {"length": len(taken) - len(short)} if len(short) < len(taken) else {}
        taken = short
    for each in entry["expected"]:
        for effect, reason in each["found"]:
            told[f"{effect}: {reason}"] = told.get(f"{effect}: {reason}", 0) + 1
            if reason not in entry["card"]:
                faults.append(f"{entry['name']}: the card does not tell: {reason}")
    if len(taken) != len(read):
        faults.append(f"{entry['name']}: it trains on {len(read)} rows, and the card tells {len(taken)}")
        return f"{head} {len(read)} | - | - | {told} |", faults
    for each, row in zip(taken, read, strict=True):
        kind = kind_of(each, row, tokenizer)
        if kind in ("", "found"):
            continue
        told[kind] = told.get(kind, 0) + 1
        words = TOLD[trainer].get(kind)
        if words is None or words not in " ".join(entry["card"].split()):
            ours, theirs = tokenizer.decode(each["ids"] or []), tokenizer.decode(row["ids"])
            faults.append(f"{entry['name']}: {kind}: {ours!r} {each['mask']} / {theirs!r} {row['mask']}")
    same = [each["ids"] == row["ids"] for each, row in zip(taken, read, strict=True)]
    masks = [each["mask"] == row["mask"] for each, row in zip(taken, read, strict=True)]
    words = "; ".join(f"{kind} ({count})" for kind, count in told.items()) or "none"
    return (
        f"{head} {len(read)} | {sum(same)} | {sum(a and b for a, b in zip(same, masks, strict=True))} | {words} |",
        faults,
    )


def main(trainer: str, folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    read = json.loads((folder / "read.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    print(f"{trainer} {read['versions']}\n")
    print("| reader | pool | format | rows in | rows it trains on | equal tokens | equal masks | differences told |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    faults = []
    for entry in plan:
        line, found = compare(trainer, entry, read["rows"].get(entry["name"]), tokenizer)
        print(line)
        faults += found
    print(*["", *(f"NOT TOLD: {fault}" for fault in faults)], sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
