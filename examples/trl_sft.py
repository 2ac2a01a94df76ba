"""TRL's SFTTrainer that trains on the best of its candidates; three lines differ from a script without selection.

    python examples/trl_sft.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector uds --candidates 64

The data is JSON Lines with a column `messages` (or prompt and completion, or text: whatever SFTTrainer reads). Needs
`pip install "curate[trl]"`. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'trl'"

With `curate ingest --data chats.jsonl --name chats` before and --pool chats, the run is one over that pool, as one of
`curate train` is: saved questions, `curate report`, `curate curriculum` and `curate export --run trl` know its samples.
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
parser.add_argument("--selector", default="uds", help="Which selector chooses.")
parser.add_argument("--candidates", type=int, default=64, help="How many samples each step chooses from.")
parser.add_argument("--keep", type=int, default=8, help="How many it trains on.")
parser.add_argument("--steps", type=int, default=100, help="Optimizer steps.")
parser.add_argument("--save-steps", type=int, default=50, help="Steps between checkpoints.")
parser.add_argument("--store", default="store", help="Where the ledger goes.")
parser.add_argument("--pool", help="The same data, as ingested into that store.")
parser.add_argument("--output", default="output", help="Where checkpoints and the model go.")
args = parser.parse_args()

trainer = SelectiveSFTTrainer(  # 2: instead of SFTTrainer
    model=args.model,
    args=SFTConfig(
        output_dir=args.output,
        per_device_train_batch_size=args.keep,  # means what it always did: samples trained on
        max_steps=args.steps,
        save_steps=args.save_steps,
        max_length=512,
        bf16=False,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),  # else several processes on CPUs do not find each other
    ),
    train_dataset=datasets.load_dataset("json", data_files=args.data, split="train"),
    peft_config=LoraConfig(target_modules="all-linear"),
    selection=Selective(  # 3
        args.selector, candidates=args.candidates, store=args.store, name="trl", pool=args.pool
    ),
)
trainer.train()
trainer.save_model(args.output)
