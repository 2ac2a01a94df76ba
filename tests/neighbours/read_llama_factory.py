"""Read exports with LLaMA-Factory's own `get_dataset`, and write what it would train on to FOLDER/read.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def rows_of(folder: Path, name: str) -> list[dict[str, list[int]]]:
    options = {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset_dir": str(folder / "exports" / name),
        "dataset": name,
        "template": "chatml",
        "cutoff_len": 4096,
        "disable_shuffling": True,
        "overwrite_cache": True,
        "output_dir": str(folder / "out"),
        "use_cpu": True,
    }
    model, data, training, _, _ = get_train_args(options)
    tokenizer = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data)
    found = get_dataset(template, model, data, training, stage="sft", **tokenizer)["train_dataset"]
    return [{"ids": row["input_ids"], "mask": [int(label >= 0) for label in row["labels"]]} for row in found]


def main(folder: Path) -> None:
    rows = {}
    for entry in json.loads((folder / "plan.json").read_text()):
        if "refused" not in entry:
            try:
                rows[entry["name"]] = rows_of(folder, entry["name"])
            except Exception as error:
                rows[entry["name"]] = f"{type(error).__name__}: {error}"
    versions = f"{version('llamafactory')}, transformers {version('transformers')}, datasets {version('datasets')}"
    (folder / "read.json").write_text(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
