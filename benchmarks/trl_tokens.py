"""Train rows with TRL's SFTTrainer and answer with tokens a second; `real_step.py` runs this beside curate.

Each line of stdin is `padded` or `packed` and a file with tokenized rows, as JSON lines of `input_ids` and `labels`.
Both ways train one epoch over the same rows with the same LoRA adapter (r = 8) in float32. A packed step has as many
rows of full length as hold the tokens of a padded step. Needs trl and peft, and nothing of curate.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

BATCH = 8
"""Texts of a padded step."""


def packed_batch(lengths: list[int], length: int) -> int:
    """Return the number of packed rows that hold about the tokens of `BATCH` texts; at least 1."""
    return max(1, round(BATCH * sum(lengths) / len(lengths) / length))


def train(way: str, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Train on the rows once, and return the seconds of the training loop and the number of real tokens."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    lengths = [len(row["input_ids"]) for row in rows]
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=packed_batch(lengths, args.length) if way == "packed" else BATCH,
            packing=way == "packed",
            max_length=args.length,
            num_train_epochs=1,
            learning_rate=1e-4,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=args.device == "cpu",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(args.model),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        )
        seconds = trainer.train().metrics["train_runtime"]
    return {"seconds": {"training": seconds}, "tokens": sum(lengths)}


def main() -> None:
    """Answer each line of stdin with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scratch", type=Path, help="folder for what the trainer writes")
    args, _ = parser.parse_known_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of the trainer goes to stderr
    for line in sys.stdin:
        way, _, file = line.strip().partition(" ")
        found = train(way, [json.loads(row) for row in Path(file).read_text().splitlines()], args)
        print(json.dumps({**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), file=answers)


if __name__ == "__main__":
    main()
