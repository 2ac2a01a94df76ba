"""Rows as a data set on disk, and a data set's way out of the store: to a folder, or to the Hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import DataError
from ..store import Artifact
from ..store.files import read_json, write_json

MARKER = ".curate-export.json"
"""In a delivered folder: which export wrote it, and which files. Only such a folder is replaced unasked."""

Rows = Sequence[dict[str, Any]]


def write_rows(rows: Rows, folder: Path, kind: str) -> None:
    """Write rows as `hf` (for `datasets.load_from_disk`), `jsonl` or `parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        return
    import datasets

    columns = {
        column: [row.get(column) for row in rows] for column in dict.fromkeys(key for row in rows for key in row)
    }
    features = datasets.Features({column: _feature(column, values, kind) for column, values in columns.items()})
    data = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    try:
        if kind == "hf":
            data.save_to_disk(str(folder))
        else:
            data.to_parquet(str(folder / "train.parquet"))
    except pa.ArrowException as error:
        raise DataError(f"These rows cannot be written as {kind}: {error}. Give --as jsonl.") from None
    finally:
        datasets.enable_progress_bars()


def _feature(column: str, values: Sequence[Any], kind: str) -> Any:
    """The type of a column. What differs in shape from message to message (tool calls, schemas) is kept as JSON."""
    from datasets import Json, List

    items = [item for value in values if isinstance(value, list) for item in value]
    if not items or not all(isinstance(item, dict) for item in items):
        return _inferred(column, values, kind)
    inner = {}
    for key in dict.fromkeys(key for item in items for key in item):
        found = [item[key] for item in items if item.get(key) is not None]
        is_json = bool(found) and all(isinstance(value, (dict, list)) for value in found)
        inner[key] = Json() if is_json else _inferred(f"{column}.{key}", found, kind)
    return List(inner)


def _inferred(column: str, values: Sequence[Any], kind: str) -> Any:
    from datasets import Value
    from datasets.features.features import generate_from_arrow_type

    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        raise DataError(
            f"The column '{column}' holds values of more than one type, or too large, which {kind} cannot. Give --as "
            "jsonl, which can."
        ) from None
    return Value("string") if pa.types.is_null(found) else generate_from_arrow_type(found)


def copy_out(artifact: Artifact, folder: Path, name: str, *, overwrite: bool = False) -> None:
    """Copy an export's files to a folder: all or nothing, and over nothing that is not an export of that name.

    Raises:
        DataError: the folder holds something else.
    """
    if not overwrite:
        _refuse_others(folder, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        shutil.copytree(artifact.files, new)
        marker = {"name": name, "fingerprint": artifact.fingerprint, "files": _files(new)}
        write_json(new / MARKER, marker)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if old.is_dir():
        shutil.rmtree(old)
    old.unlink(missing_ok=True)


def _refuse_others(folder: Path, name: str) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
    strangers = sorted(set(_files(folder)) - {*marker.get("files", ()), MARKER}) if folder.is_dir() else [folder.name]
    if marker.get("name") != name or strangers:
        holds = f"holds {strangers[0]}" if strangers else f"is the export '{marker.get('name')}'"
        raise DataError(f"{folder} {holds} and is left alone. Give another --to, or --overwrite to replace it.")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push(folder: Path, repo: str, *, private: bool) -> None:
    """Upload an export to a data set repository of the Hub: the card first, which the upload then completes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if not (folder / "state.json").exists():
            api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder)
            return
        import datasets

        card = folder / "README.md"
        api.upload_file(path_or_fileobj=card, path_in_repo=card.name, repo_id=repo, repo_type="dataset")
        datasets.load_from_disk(str(folder)).push_to_hub(repo, private=private)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise DataError(
            f"The Hub did not take {repo}: {said[0] if said else type(error).__name__}. Check the id, and log in with "
            "hf auth login."
        ) from None
