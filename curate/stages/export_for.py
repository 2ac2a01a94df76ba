"""What the trainers that an export can be for read, and what they need beside the rows to read them in their order.

LLaMA-Factory finds a data set by a stanza of `dataset_info.json` in its `dataset_dir` (data/README.md there); an
exported folder is such a directory. TRL takes rows as `datasets` loads them. Both shuffle unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class Reader:
    """A trainer: what it is called, and what it reads; what comes first is written unless something else is asked."""

    title: str
    formats: tuple[str, ...]
    file_formats: tuple[str, ...]
    note: str


READERS: Mapping[str, Reader] = {
    "trl": Reader(
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
    "llama-factory": Reader(
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
}


def fitted(trainer: str, given: Mapping[str, str]) -> dict[str, str]:
    """`format` and `file_format` for a trainer: as given, or else its first; `ConfigError` for what it cannot read."""
    reader = READERS[trainer]
    found = {}
    for field, flag, known in (("format", "format", reader.formats), ("file_format", "as", reader.file_formats)):
        found[field] = given.get(field, known[0])
        if found[field] not in known:
            raise ConfigError(
                f"{reader.title} does not read --{flag} {found[field]}: give {' or '.join(known)}, or leave it out."
            )
    return found


def note(trainer: str, name: str) -> str:
    """How the trainer reads an export in its order, as a section of the card."""
    reader = READERS[trainer]
    return f"## Training in this order with {reader.title}\n\n" + reader.note.replace("{name}", name)


def stanza(form: str, file: str, columns: Collection[str]) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` says of rows of a format, in a file, with these columns.

    Raises:
        DataError: its converter for messages has no place for tools.
    """
    further = {name: name for name in ("system", "tools") if name in columns}
    if form == "alpaca":
        names = {"prompt": "instruction", "query": "input", "response": "output"}
        return {"file_name": file, "formatting": "alpaca", "columns": names | further}
    if form == "sharegpt":
        return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations"} | further}
    if further:
        raise DataError("LLaMA-Factory reads tools in the format sharegpt only: leave out --format messages.")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {"system_tag": "system", "observation_tag": "tool"}
    return {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
