"""Read exports with Axolotl's own `prepare_datasets`, and write what it would train on to FOLDER/read.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from axolotl.loaders import load_tokenizer
from axolotl.utils.config import normalize_config, validate_config
from axolotl.utils.data import prepare_datasets, sft
from axolotl.utils.dict import DictDefault


def rows_of(folder: Path, name: str) -> list[dict[str, list[int]]]:
    export = folder / "exports" / name
    options = yaml.safe_load((export / "axolotl.yaml").read_text().replace("FOLDER", str(export)))
    options |= {
        "base_model": str(folder / "model"),
        "sequence_len": 512,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-4,
        "output_dir": str(folder / "out"),
        "dataset_prepared_path": str(folder / "prepared" / name),
        "dataset_num_proc": 1,
    }
    config = validate_config(DictDefault(options))
    normalize_config(config)
    data, *_ = prepare_datasets(config, load_tokenizer(config))
    return [{"ids": row["input_ids"], "mask": [int(label >= 0) for label in row["labels"]]} for row in data]


def main(folder: Path) -> None:
    sft.save_preprocessed_dataset = lambda *arguments, **options: (
        None
    )  # it starts processes, and nothing reads the files
    rows = {}
    for entry in json.loads((folder / "plan.json").read_text()):
        if "refused" not in entry:
            try:
                rows[entry["name"]] = rows_of(folder, entry["name"])
            except Exception as error:
                rows[entry["name"]] = f"{type(error).__name__}: {error}"
    versions = f"{version('axolotl')}, transformers {version('transformers')}, datasets {version('datasets')}"
    (folder / "read.json").write_text(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
