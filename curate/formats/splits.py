"""Tell by the names of files and folders which split they belong to, and choose the files of one split.

The Hub, `datasets` and most people name splits in the same few ways: `split=train/`, a folder `train/`,
`train-00000-of-00002.parquet`, `train.jsonl`, `gsm8k_test.jsonl`. Files whose names have no split belong to `train`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import DataError
from ..runtime.terminal import cell
from .reading import Notes

SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "validate"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Word in a name -> split."""
ALL = "all"
"""The `--split` that reads every file."""
IN_FOLDER = re.compile(r"split=([^/]+)")
NUMBERED = re.compile(r"(?:.*/)?([\w.]+(?:-[A-Za-z_]\w*)*)-\d{5}-of-\d{5}\b")
"""A name of the Hub: split, number of the file, number of files."""
WORDS = re.compile(r"[^A-Za-z]+")


def split_of(name: str) -> str:
    """Return the split that a file's path names, or "" if it names none.

    Args:
        name: path below the folder, with `/`.
    """
    if found := IN_FOLDER.search(name):
        return found[1]
    *folders, file = name.split("/")
    for folder in reversed(folders):
        if split := SYNONYMS.get(folder.lower()):
            return split
    if found := NUMBERED.match(file):
        stem = found[1].rpartition("-")[2]
        return SYNONYMS.get(stem.lower(), stem)
    words = [SYNONYMS[word] for word in WORDS.split(file.partition(".")[0].lower()) if word in SYNONYMS]
    return words[-1] if words else ""


def same_split(one: str, other: str) -> bool:
    """Return whether two names mean the same split."""
    return SYNONYMS.get(one.lower(), one) == SYNONYMS.get(other.lower(), other)


def choose_split(names: Sequence[str], where: str, split: str, notes: Notes) -> list[str]:
    """Return the files of a split, and note which others there are.

    Args:
        names: paths of the data files below a folder.
        where: the folder, for messages.
        split: name of the split; `all` for every file.
        notes: receives the splits that are left out.

    Raises:
        DataError: there are splits, and none of this name.
    """
    splits = {name: split_of(name) for name in names}
    if split == ALL or (not any(splits.values()) and same_split(split, "train")):
        return list(names)
    exact = [name for name in names if _stem(name) == split]
    chosen = exact or [name for name in names if same_split(splits[name] or "train", split)]
    left = Counter(splits[name] or "train" for name in names if name not in set(chosen))
    counted = ", ".join(
        f"{cell(name)} ({count} file{'s' if count > 1 else ''})" for name, count in sorted(left.items())
    )
    if not chosen:
        raise DataError(f"{where} has no split '{split}'; it has {counted}. Give --split NAME, or --split all.")
    if left:
        notes.files.append(f"other splits in {where}: {counted}; --split NAME reads another, --split all every file")
    return chosen


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]
