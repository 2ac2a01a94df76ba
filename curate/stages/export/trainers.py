"""What the trainers that an export can be for read, and what they need beside the rows to read them in their order.

LLaMA-Factory finds a data set by a stanza of `dataset_info.json` in its `dataset_dir` (data/README.md there); an
exported folder is such a directory. Axolotl takes a stanza of a YAML of yours (docs/dataset-formats there), ms-swift
a path on its command line (Custom-dataset.md there), and TRL rows as `datasets` loads them. All shuffle unless told
otherwise, and none knows weights of samples.
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
    """A trainer: what it is called, and what it reads; what comes first is written unless something else is asked."""

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

arguments = SFTConfig(train_sampling_strategy="sequential", output_dir="out")  # the rows in their order
trainer = SFTTrainer(model=MODEL, args=arguments, train_dataset=data)
```

The default, `random`, shuffles; `shuffle_dataset` must stay off. TRL makes no use of a column `weight`.""",
    ),
    "llama-factory": TrainerFormat(
        "LLaMA-Factory",
        ("sharegpt", "alpaca", "messages"),
        ("jsonl", "parquet"),
        """\
```yaml
dataset_dir: FOLDER        # this folder: its dataset_info.json says how to read the file
dataset: {name}
disable_shuffling: true    # the rows in their order
```

LLaMA-Factory makes no use of a column `weight`.""",
    ),
    "axolotl": TrainerFormat(
        "Axolotl",
        ("messages",),
        ("jsonl", "parquet"),
        """\
`axolotl.yaml` in this folder belongs into your configuration, with this folder's path for `FOLDER`. In it,

```yaml
curriculum_sampling: true         # the rows in their order, instead of drawn by chance
shuffle_merged_datasets: false
```

keep the order; `sample_packing` still puts together what fits. Axolotl makes no use of a column `weight`.""",
    ),
    "ms-swift": TrainerFormat(
        "ms-swift",
        ("messages", "alpaca"),
        ("jsonl",),
        """\
```sh
swift sft --model MODEL --dataset FOLDER/{file} \\
    --dataset_shuffle false --train_dataloader_shuffle false    # the rows in their order
```

Both shuffle by default. ms-swift leaves out columns that it does not know, `weight` among them.""",
    ),
}

NO_CALLS = {
    ("llama-factory", "messages"): "reads tools in the format sharegpt only: leave out --format messages.",
    ("ms-swift", "messages"): "writes calls of tools in its own way: choose samples without, or another trainer.",
}
"""Trainer and format that have no place for tools and calls of them -> what to do."""


def fitted(trainer: str, given: Mapping[str, str]) -> dict[str, str]:
    """`format` and `file_format` for a trainer: as given, or else its first; `ConfigError` for what it cannot read."""
    reader = TRAINER_FORMATS[trainer]
    found = {}
    for field, flag, known in (("format", "format", reader.formats), ("file_format", "as", reader.file_formats)):
        found[field] = given.get(field, known[0])
        if found[field] not in known:
            raise ConfigError(
                f"{reader.title} does not read --{flag} {found[field]}: give {' or '.join(known)}, or leave it out."
            )
    return found


def note(trainer: str, name: str, file: str) -> str:
    """How the trainer reads an export in its order, as a section of the card."""
    reader = TRAINER_FORMATS[trainer]
    text = reader.note.replace("{name}", name).replace("{file}", file)
    return f"## Training in this order with {reader.title}\n\n{text}"


def check_calls(trainer: str, form: str) -> None:
    """For rows in which tools are offered or called: `DataError` where the trainer has no place for that."""
    if (trainer, form) in NO_CALLS:
        raise DataError(f"{TRAINER_FORMATS[trainer].title} {NO_CALLS[trainer, form]}")


def described(trainer: str, form: str, name: str, file: str, columns: Collection[str]) -> tuple[str, str] | None:
    """The file beside the rows that says how they are read, as its name and text, for trainers that take one."""
    if trainer == "llama-factory":
        return "dataset_info.json", as_json({name: stanza(form, file, columns)})
    if trainer == "axolotl":
        return "axolotl.yaml", yaml.safe_dump(axolotl(file, columns), sort_keys=False)
    return None


def axolotl(file: str, columns: Collection[str]) -> dict[str, Any]:
    """What Axolotl's configuration says of messages in a file, with these columns."""
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
    return {"datasets": [rows], "curriculum_sampling": True, "shuffle_merged_datasets": False}


def stanza(form: str, file: str, columns: Collection[str]) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` says of rows of a format, in a file, with these columns."""
    further = {name: name for name in ("system", "tools") if name in columns}
    if form == "alpaca":
        names = {"prompt": "instruction", "query": "input", "response": "output"}
        return {"file_name": file, "formatting": "alpaca", "columns": names | further}
    if form == "sharegpt":
        return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations"} | further}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {"system_tag": "system", "observation_tag": "tool"}
    return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
