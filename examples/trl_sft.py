"""A script with TRL's SFTTrainer that trains on the best of its candidates; three lines differ from plain TRL.

    python examples/trl_sft.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector uds --candidates 64

The data is JSON Lines with a column `messages` (or another format that SFTTrainer reads). Needs
`pip install "curate-sft[trl]"`. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'trl'"

After `curate ingest --data chats.jsonl --name chats`, add --pool chats. The run then belongs to this pool like a run of
`curate train`: saved questions, `curate report`, `curate curriculum` and `curate export --run trl` find its samples.
"""

import argparse

import datasets
import torch
from peft import LoraConfig
from trl import SFTConfig

from curate.integrations.trl import Selective, SelectiveSFTTrainer  # 1: instead of SFTTrainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="Folder or Hub id.")
parser.add_argument("--data", required=True, help="JSON Lines.")
parser.add_argument("--selector", default="uds", help="Name of the selector.")
parser.add_argument("--candidates", type=int, default=64, help="Candidates of each step.")
parser.add_argument("--keep", type=int, default=8, help="Samples that each step trains on.")
parser.add_argument("--steps", type=int, default=100, help="Optimizer steps.")
parser.add_argument("--save-steps", type=int, default=50, help="Steps between checkpoints.")
parser.add_argument("--store", default="store", help="Folder of the store, for the ledger.")
parser.add_argument("--pool", help="The same data, as ingested into that store.")
parser.add_argument("--output", default="output", help="Folder for checkpoints and the model.")
args = parser.parse_args()

trainer = SelectiveSFTTrainer(  # 2: instead of SFTTrainer
    model=args.model,
    args=SFTConfig(
        output_dir=args.output,
        per_device_train_batch_size=args.keep,  # as always: the number of samples trained on
        max_steps=args.steps,
        save_steps=args.save_steps,
        max_length=512,
        bf16=False,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),  # needed for several processes on CPUs
    ),
    train_dataset=datasets.load_dataset("json", data_files=args.data, split="train"),
    peft_config=LoraConfig(target_modules="all-linear"),
    selection=Selective(  # 3
        args.selector, candidates=args.candidates, store=args.store, name="trl", pool=args.pool
    ),
)
trainer.train()
trainer.save_model(args.output)
