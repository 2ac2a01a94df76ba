"""Output formats per trainer (TRL, LLaMA-Factory, Axolotl, ms-swift), and the files each needs to keep the row order.

LLaMA-Factory finds a dataset by an entry of `dataset_info.json` in its `dataset_dir` (see its data/README.md); an
exported folder is such a directory. Axolotl needs an entry in the user's YAML configuration (see its
docs/dataset-formats), ms-swift a path on its command line (see its Custom-dataset.md), and TRL rows that `datasets`
can load. By default all of them shuffle, and none draws samples by weight. `tests/neighbours` runs these trainers and
checks the statements here about tokens and masks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...store.artifacts.files import as_json
from .differences import Differences


@dataclass(frozen=True)
class TrainerFormat:
    """The formats that a trainer reads; the first of each is the default.

    Attributes:
        title: name of the trainer.
        formats: formats of the rows.
        file_formats: formats of the files.
        note: Markdown on how to train in the order of the rows; `{name}` and `{file}` are replaced.
        tokens: Markdown on how its tokens and masks differ from those of `curate train`.
    """

    title: str
    formats: tuple[str, ...]
    file_formats: tuple[str, ...]
    note: str
    tokens: str


TRAINER_FORMATS: Mapping[str, TrainerFormat] = {
    "trl": TrainerFormat(
        "TRL",
        ("messages", "prompt-completion"),
        ("hf", "jsonl", "parquet"),
        """\
```python
from trl import SFTConfig, SFTTrainer

arguments = SFTConfig(
    assistant_only_loss=True,               # trains on the answers only, as curate does; the default is all tokens
    max_length=None,                        # or the --max-length of curate train; the default cuts after 1024 tokens
    train_sampling_strategy="sequential",   # keeps the order of the rows
    output_dir="out",
)
trainer = SFTTrainer(model=MODEL, args=arguments, train_dataset=data)
```

The default, `random`, shuffles; `shuffle_dataset` must stay off. TRL ignores a column `weight`.""",
        """\
With `assistant_only_loss=True` and a chat template with `{% generation %}` marks, TRL trains on the tokens and the
mask of `curate train`. Without marks TRL takes a template of its own for models that it knows, and stops for others.
Special tokens that a text spells out become special tokens in TRL; curate encodes them as text.""",
    ),
    "llama-factory": TrainerFormat(
        "LLaMA-Factory",
        ("sharegpt", "alpaca", "messages"),
        ("parquet", "jsonl"),
        """\
```yaml
dataset_dir: FOLDER        # this folder: its dataset_info.json describes the file
dataset: {name}
template: TEMPLATE         # LLaMA-Factory's name of your model's template; it does not use the model's own
cutoff_len: 2048           # the --max-length of curate train; longer rows are cut
disable_shuffling: true    # keeps the order of the rows
```

LLaMA-Factory ignores a column `weight`.""",
        """\
LLaMA-Factory writes the tokens with its own `template`, piece by piece. They equal those of `curate train` if the
template says what the model's chat template says; a `default_system` of the template is added to rows without a
system message, and tools are written in its own way. It trains on all that the template puts into the assistant's
turn, such as a line break after the end of the turn, even where the marks of the model's chat template leave it out.
Special tokens that a text spells out become special tokens; curate encodes them as text.""",
    ),
    "axolotl": TrainerFormat(
        "Axolotl",
        ("messages",),
        ("parquet", "jsonl"),
        """\
Copy the content of this folder's `axolotl.yaml` into your configuration, and replace `FOLDER` by this folder's path.
These two options keep the order of the rows:

```yaml
curriculum_sampling: true         # rows in order, instead of random sampling
shuffle_merged_datasets: false
```

`sample_packing` still packs samples together that fit. Axolotl ignores a column `weight`.""",
        """\
Axolotl renders with the model's chat template. It trains on the end of a turn only if this is the tokenizer's
`eos_token`, or if `eot_tokens` lists it: the line is in `axolotl.yaml`, as a comment; `curate train` trains on it.
Axolotl drops rows that are longer than `sequence_len`; curate cuts them after `--max-length`. A line break that the
template puts after the end of a turn is not trained on, even where the template's `{% generation %}` marks contain
it. Special tokens that a text spells out become special tokens; curate encodes them as text.""",
    ),
    "ms-swift": TrainerFormat(
        "ms-swift",
        ("messages", "alpaca"),
        ("parquet", "jsonl"),
        """\
```sh
swift sft --model MODEL --dataset FOLDER/{file} \\
    --dataset_shuffle false --train_dataloader_shuffle false    # keeps the order of the rows
```

Both options shuffle by default. ms-swift drops columns that it does not know. A column `weight` is also written into
each answer as `loss_scale` (format messages): add `--is_binary_loss_scale false`, and the loss of each token of the
answers is multiplied by it. The ends of their turns keep a scale of 1, also for a weight of 0. ms-swift divides the sum
by the number of tokens, curate by the sum of their weights.""",
        """\
ms-swift writes the tokens with the template of its own for the model (`--template`). They equal those of `curate
train` if this says what the model's chat template says; `--system` and the template's default system message are
added to rows without one, and tools and calls are written by `--agent_template`. It trains on all of each answer and
of the end of its turn, such as a line break after the end of the turn, even where the marks of the model's chat
template leave it out. Rows longer than `--max_length` are dropped (`--truncation_strategy delete`); curate cuts them.
Special tokens that a text spells out become special tokens; curate encodes them as text.""",
    ),
}

TURN_MARKERS = {("axolotl", "messages"): "train", ("ms-swift", "messages"): "loss"}
"""Trainer and format -> key of an assistant's message that says whether to train on it. The others read no such key."""

NO_TOOL_CALLS = {
    ("llama-factory", "messages"): "reads tools in the format sharegpt only: remove --format messages.",
}
"""Trainer and format without support for tools and tool calls -> end of the error message."""


AUTO = "auto"
"""Format that is chosen by the samples."""
CHOOSING = ("trl",)
"""Trainers whose format is chosen by the samples if none is given."""


def resolve_formats(trainer: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return `format` and `file_format` for a trainer: the given ones, or else its defaults.

    Raises:
        ConfigError: the trainer does not read a given format.
    """
    reader = TRAINER_FORMATS[trainer]
    resolved = {}
    for field, flag, known in (("format", "format", reader.formats), ("file_format", "as", reader.file_formats)):
        choosing = field == "format" and trainer in CHOOSING
        resolved[field] = given.get(field, AUTO if choosing else known[0])
        if resolved[field] not in known and not (choosing and resolved[field] == AUTO):
            raise ConfigError(
                f"{reader.title} does not read --{flag} {resolved[field]}: give {' or '.join(known)}, or remove "
                f"--{flag}."
            )
    return resolved


def training_section(trainer: str, row_format: str, name: str, file: str) -> str:
    """Return the section of the card on how to train in the order of the rows.

    Args:
        trainer: key of `TRAINER_FORMATS`.
        row_format: format of the rows.
        name: name of the export.
        file: name of the file with the rows.
    """
    reader = TRAINER_FORMATS[trainer]
    text = reader.note.replace("{name}", name).replace("{file}", file)
    if (trainer, row_format) == ("trl", "prompt-completion"):
        text += (
            "\n\nTRL trains on the completion only, which is the last answer. If the chat template has no "
            "`{% generation %}` marks, leave `assistant_only_loss=True` out: the completion is then trained on whole."
        )
    return f"## Training in this order with {reader.title}\n\n{text}"


def differences_section(trainer: str, differences: Differences) -> str:
    """Return the section of the card on what a trainer does differently from `curate train`."""
    reader = TRAINER_FORMATS[trainer]
    found = [f"- {line}" for line in [*differences.lines(), *differences.lines_of_length(trainer)]] or [
        "It skips and changes no row."
    ]
    counts = f"It reads {differences.rows} rows and trains on {differences.rows - differences.skipped}."
    return "\n\n".join([f"## What {reader.title} does differently", counts, "\n".join(found), reader.tokens])


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
        columns: columns of the rows, and flags of messages.
    """
    if trainer == "llama-factory":
        return "dataset_info.json", as_json({name: llama_factory_entry(row_format, file, columns)})
    if trainer == "axolotl":
        import yaml

        return "axolotl.yaml", yaml.safe_dump(axolotl_config(file, columns), sort_keys=False) + EOT_TOKENS
    return None


EOT_TOKENS = """\
# Axolotl trains on the end of a turn only if it is the eos_token of the tokenizer. Otherwise name it here:
# eot_tokens: ["<|im_end|>"]
"""


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
    rows |= {"message_field_training": "train"} if "train" in columns else {}
    rows |= {"message_field_training_detail": "train_detail"} if "train_detail" in columns else {}
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
