"""Output formats per trainer (TRL, LLaMA-Factory, Axolotl, ms-swift), and the files each needs to keep the row order.

LLaMA-Factory finds a dataset by an entry of `dataset_info.json` in its `dataset_dir` (see its data/README.md); an
exported folder is such a directory. Axolotl needs an entry in the user's YAML configuration (see its
docs/dataset-formats), ms-swift a path on its command line (see its Custom-dataset.md), and TRL rows that `datasets` can
load. By default all of them shuffle, and none supports weights of samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError, DataError
from ...store.artifacts.files import as_json


@dataclass(frozen=True)
class TrainerFormat:
    """The formats that a trainer reads; the first of each is the default.

    Attributes:
        title: name of the trainer.
        formats: formats of the rows.
        file_formats: formats of the files.
        note: Markdown on how to train in the order of the rows; `{name}` and `{file}` are replaced.
    """

    title: str
    formats: tuple[str, ...]
    file_formats: tuple[str, ...]
    note: str


TRAINER_FORMATS: Mapping[str, TrainerFormat] = {
    "trl": TrainerFormat(
        "TRL",
        ("messages", "prompt-completion"),
        ("hf", "jsonl", "parquet"),
        """\
```python
from trl import SFTConfig, SFTTrainer

arguments = SFTConfig(train_sampling_strategy="sequential", output_dir="out")  # keeps the order of the rows
trainer = SFTTrainer(model=MODEL, args=arguments, train_dataset=data)
```

The default, `random`, shuffles; `shuffle_dataset` must stay off. TRL ignores a column `weight`.""",
    ),
    "llama-factory": TrainerFormat(
        "LLaMA-Factory",
        ("sharegpt", "alpaca", "messages"),
        ("jsonl", "parquet"),
        """\
```yaml
dataset_dir: FOLDER        # this folder: its dataset_info.json describes the file
dataset: {name}
disable_shuffling: true    # keeps the order of the rows
```

LLaMA-Factory ignores a column `weight`.""",
    ),
    "axolotl": TrainerFormat(
        "Axolotl",
        ("messages",),
        ("jsonl", "parquet"),
        """\
Copy the content of this folder's `axolotl.yaml` into your configuration, and replace `FOLDER` by this folder's path.
These two options keep the order of the rows:

```yaml
curriculum_sampling: true         # rows in order, instead of random sampling
shuffle_merged_datasets: false
```

`sample_packing` still packs samples together that fit. Axolotl ignores a column `weight`.""",
    ),
    "ms-swift": TrainerFormat(
        "ms-swift",
        ("messages", "alpaca"),
        ("jsonl",),
        """\
```sh
swift sft --model MODEL --dataset FOLDER/{file} \\
    --dataset_shuffle false --train_dataloader_shuffle false    # keeps the order of the rows
```

Both options shuffle by default. ms-swift drops columns that it does not know, `weight` among them.""",
    ),
}

TURN_MARKERS = {("axolotl", "messages"): "train", ("ms-swift", "messages"): "loss"}
"""Trainer and format -> key of an assistant's message that says whether to train on it. The others read no such key."""

NO_TOOL_CALLS = {
    ("llama-factory", "messages"): "reads tools in the format sharegpt only: remove --format messages.",
    ("ms-swift", "messages"): "writes tool calls in its own way: select samples without tools, or give another --for.",
}
"""Trainer and format without support for tools and tool calls -> end of the error message."""


def resolve_formats(trainer: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return `format` and `file_format` for a trainer: the given ones, or else its defaults.

    Raises:
        ConfigError: the trainer does not read a given format.
    """
    reader = TRAINER_FORMATS[trainer]
    resolved = {}
    for field, flag, known in (("format", "format", reader.formats), ("file_format", "as", reader.file_formats)):
        resolved[field] = given.get(field, known[0])
        if resolved[field] not in known:
            raise ConfigError(
                f"{reader.title} does not read --{flag} {resolved[field]}: give {' or '.join(known)}, or remove "
                f"--{flag}."
            )
    return resolved


def order_section(trainer: str, name: str, file: str) -> str:
    """Return the section of the card on how to train in the order of the rows.

    Args:
        trainer: key of `TRAINER_FORMATS`.
        name: name of the export.
        file: name of the file with the rows.
    """
    reader = TRAINER_FORMATS[trainer]
    text = reader.note.replace("{name}", name).replace("{file}", file)
    return f"## Training in this order with {reader.title}\n\n{text}"


def check_tool_calls(trainer: str, row_format: str) -> None:
    """Raise `DataError` if a trainer cannot read rows of a format that offer or call tools."""
    if (trainer, row_format) in NO_TOOL_CALLS:
        raise DataError(f"{TRAINER_FORMATS[trainer].title} {NO_TOOL_CALLS[trainer, row_format]}")


def trainer_file(
    trainer: str, row_format: str, name: str, file: str, columns: Collection[str]
) -> tuple[str, str] | None:
    """Return name and text of the file that tells a trainer how to read the rows; None if it needs no such file.

    Args:
        trainer: key of `TRAINER_FORMATS`.
        row_format: format of the rows.
        name: name of the export.
        file: name of the file with the rows.
        columns: columns of the rows.
    """
    if trainer == "llama-factory":
        return "dataset_info.json", as_json({name: llama_factory_entry(row_format, file, columns)})
    if trainer == "axolotl":
        return "axolotl.yaml", yaml.safe_dump(axolotl_config(file, columns), sort_keys=False)
    return None


def axolotl_config(file: str, columns: Collection[str]) -> dict[str, Any]:
    """Return the part of Axolotl's configuration for a file of messages with these columns."""
    rows = {
        "path": f"FOLDER/{file}",
        "ds_type": {".jsonl": "json", ".parquet": "parquet"}[Path(file).suffix],
        "split": "train",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    rows |= {"field_tools": "tools"} if "tools" in columns else {}
    marker = TURN_MARKERS["axolotl", "messages"]
    rows |= {"message_field_training": marker} if marker in columns else {}
    return {"datasets": [rows], "curriculum_sampling": True, "shuffle_merged_datasets": False}


def llama_factory_entry(row_format: str, file: str, columns: Collection[str]) -> dict[str, Any]:
    """Return the entry of LLaMA-Factory's `dataset_info.json` for a file of rows of a format with these columns."""
    further = {name: name for name in ("system", "tools") if name in columns}
    if row_format == "alpaca":
        names = {"prompt": "instruction", "query": "input", "response": "output"}
        return {"file_name": file, "formatting": "alpaca", "columns": names | further}
    if row_format == "sharegpt":
        return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations"} | further}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {"system_tag": "system", "observation_tag": "tool"}
    return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
