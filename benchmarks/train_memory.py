"""Peak memory of a training step: curate's against TRL's SFTTrainer, same model, texts and micro-batch.

A Llama of random weights with a large vocabulary, LoRA on all linear layers, every token a target. Each side runs in a
process of its own; on a CPU the peak is the process's resident set beyond what it held before training, on a GPU what
torch allocated. The last line is JSON: `ours_bytes`, `trl_bytes`, `ratio` (ours / TRL's), `logits_bytes`.

    python benchmarks/train_memory.py --vocab 151936 --hidden 256 --length 256 --batch 4
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def model_of(args: argparse.Namespace) -> nn.Module:
    """A two-layer Llama with an adapter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from curate.lm.model.load import add_lora

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
    )
    return add_lora(LlamaForCausalLM(config), r=8, alpha=16, dropout=0.0, target_modules="all-linear")


def arguments_of(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Three steps without anything around them."""
    return {
        "output_dir": folder,
        "max_steps": 3,
        "per_device_train_batch_size": args.batch,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": args.bf16,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def ours(args: argparse.Namespace, model: nn.Module, rows: list[list[int]], folder: str) -> Any:
    """curate's trainer, keeping all."""
    from transformers import TrainingArguments

    from curate.lm.model.chunked_loss import chunk_loss
    from curate.lm.model.scoring_model import make_scoring_model
    from curate.lm.tokens.batch import collate
    from curate.lm.tokens.encode import Encoded
    from curate.lm.tokens.token_table import TokenTable
    from curate.selectors import RunInfo, make_selector
    from curate.training.recorder import StepRecorder
    from curate.training.step import BatchSelection, SelectionPlan
    from curate.training.trainer import CurateTrainer

    class Nowhere:
        def append(self, step: int, columns: Any) -> None:
            pass

    encoded = (Encoded(np.array(row, np.int32), np.ones(len(row), bool), len(row)) for row in rows)
    table = TokenTable((i, str(i), row) for i, row in enumerate(encoded))
    training = TrainingArguments(remove_unused_columns=False, **arguments_of(args, folder))
    scoring_model = make_scoring_model(model.to(training.device))
    chunk_loss(scoring_model, 64 << 20)
    info = RunInfo(vocab_size=args.vocab, max_length=args.length)
    selection = BatchSelection(make_selector("full", {}, info), scoring_model, recorder=StepRecorder(Nowhere()))
    return CurateTrainer(
        selection=selection,
        table=table,
        plan=SelectionPlan(args.batch, args.batch),
        model=model,
        args=training,
        train_dataset=range(len(table)),
        data_collator=lambda batch: collate(batch, pad_token_id=0),
    )


def trls(args: argparse.Namespace, model: nn.Module, rows: list[list[int]], folder: str) -> Any:
    """TRL's SFTTrainer with its default loss."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from curate.demo.model import train_tokenizer

    tokenizer: PreTrainedTokenizerFast = train_tokenizer(0, 400)
    config = SFTConfig(
        max_length=args.length, gradient_checkpointing=False, dataset_num_proc=None, **arguments_of(args, folder)
    )
    return SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_dict({"input_ids": rows}), processing_class=tokenizer
    )


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(args: argparse.Namespace) -> None:
    """One side, in this process."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, args.vocab, (4 * args.batch, args.length), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as folder:
        trainer = {"ours": ours, "trl": trls}[args.side](args, model_of(args), rows, folder)
        before = resident()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak)


def main() -> None:
    """Both sides, a process each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return measure(args)
    peaks = {}
    for side in ("ours", "trl"):
        done = subprocess.run(
            [sys.executable, *sys.argv, "--side", side], check=True, stdout=subprocess.PIPE, text=True
        )
        peaks[side] = int(done.stdout.splitlines()[-1])
        print(f"{side}: {peaks[side] / 2**20:.0f} MiB")
    logits = 4 * args.batch * args.length * args.vocab
    print(
        json.dumps(
            {"ours_bytes": peaks["ours"], "trl_bytes": peaks["trl"], "ratio": peaks["ours"] / peaks["trl"]}
            | {"logits_bytes": logits}
        )
    )


if __name__ == "__main__":
    main()
