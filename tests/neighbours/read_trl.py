"""Read exports with TRL, as the card says, and write what it would train on to FOLDER/read.json."""

import json
import sys
from pathlib import Path

import datasets
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer


def rows_of(folder: Path, export: Path) -> list[dict[str, list[int]]]:
    arguments = trl.SFTConfig(
        assistant_only_loss=True,
        max_length=None,
        train_sampling_strategy="sequential",
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=arguments,
        train_dataset=datasets.load_from_disk(str(export)),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    return [
        {"ids": batch["input_ids"][0].tolist(), "mask": [int(label >= 0) for label in batch["labels"][0].tolist()]}
        for batch in batches
    ]


def main(folder: Path) -> None:
    rows = {}
    for entry in json.loads((folder / "plan.json").read_text()):
        if "refused" not in entry:
            try:
                rows[entry["name"]] = rows_of(folder, folder / "exports" / entry["name"])
            except Exception as error:
                rows[entry["name"]] = f"{type(error).__name__}: {error}"
    versions = f"{trl.__version__}, transformers {transformers.__version__}, datasets {datasets.__version__}"
    (folder / "read.json").write_text(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
