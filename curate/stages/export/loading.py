"""Write the section of the card on loading: the call, and the releases of `datasets` that can read the files."""

from __future__ import annotations

from pathlib import Path

from ...store.artifacts.parquet import metadata_of
from .json_lines import WatchedRows

LISTS, JSON = "4.0", "4.7"
"""First releases of `datasets` with the types List and Json."""
LOAD = {
    "hf": "data = datasets.load_from_disk(FOLDER)",
    "jsonl": 'data = datasets.load_dataset(FOLDER, split="train")',
    "parquet": 'data = datasets.load_dataset(FOLDER, split="train")',
}
FROM_LIST = """\
with open(f"{FOLDER}/train.jsonl", encoding="utf-8") as file:
    data = datasets.Dataset.from_list([json.loads(line) for line in file])"""


def loading_section(folder: Path, file_format: str, row_format: str, watched: WatchedRows) -> str:
    """Return the section on loading.

    Args:
        folder: folder with the files of the rows.
        file_format: `hf`, `jsonl` or `parquet`.
        row_format: format of the rows.
        watched: what was found while the rows were written.
    """
    problems = json_problems(watched) if file_format == "jsonl" else []
    call = FROM_LIST if problems else LOAD[file_format]
    imports = "import json\n\nimport datasets" if problems else "import datasets"
    parts = [
        "## Loading",
        f"```python\n{imports}\n\n{call}\n```",
        f"Rows are in the format {row_format}. {_releases(folder, file_format, watched)}".strip(),
        *(f"`load_dataset` cannot read this file rightly: {problem}." for problem in problems),
    ]
    return "\n\n".join(parts)


def json_problems(watched: WatchedRows) -> list[str]:
    """Return what `load_dataset` would misread in JSON Lines, in words."""
    problems = []
    if watched.dates:
        problems.append(f"all texts of {', '.join(watched.dates)} are dates, which it turns into time stamps")
    if watched.late:
        problems.append(
            f"{', '.join(watched.late)} first appears (or has another type) after the first 10 MiB, which ends it with "
            "an error"
        )
    return problems


def _releases(folder: Path, file_format: str, watched: WatchedRows) -> str:
    """Return the sentence on the releases of `datasets` that can read the files."""
    types = _types(folder, file_format)
    if '"Json"' in types:
        return f"They need `datasets` {JSON} or newer, because of the type `Json` of tools and tool calls."
    if '"List"' in types or '"LargeList"' in types:
        return f"They need `datasets` {LISTS} or newer, because of the type `List`."
    if file_format == "jsonl" and watched.nested:
        return f"Read them with `datasets` {JSON} or newer: older ones mix up the arguments of different tools."
    return ""


def _types(folder: Path, file_format: str) -> str:
    """Return the types of the columns as JSON text, as `datasets` wrote them into the files."""
    if file_format == "hf":
        return (folder / "dataset_info.json").read_text(encoding="utf-8")
    if file_format == "parquet":
        metadata = metadata_of(folder / "train.parquet").metadata or {}
        return str(metadata.get(b"huggingface", b"").decode())
    return ""
