"""A loop of Lightning Fabric with selection: Fabric handles devices, precision and processes, curate the selection.

    python examples/fabric_loop.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector uds --precision bf16-mixed

The data is JSON Lines with a column `messages`. Needs `pip install lightning` (or lightning-fabric). With several
processes each chooses among its own candidates. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'fabric'"
"""

import argparse
import json
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.integrations import BatchSelector

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="Folder or Hub id.")
parser.add_argument("--data", required=True, help="JSON Lines with a column messages.")
parser.add_argument("--selector", default="uds", help="Name of the selector.")
parser.add_argument("--candidates", type=int, default=64, help="Candidates of each process in a step.")
parser.add_argument("--keep", type=int, default=8, help="Samples that each step trains on.")
parser.add_argument("--precision", default="32-true", help="Fabric: 32-true, bf16-mixed, ...")
parser.add_argument("--devices", default="1", help="Fabric: number of processes.")
parser.add_argument("--store", default="store", help="Folder of the store, for the ledger.")
parser.add_argument("--checkpoint", default="fabric.ckpt", help="File for the final state.")
args = parser.parse_args()

MAX_LENGTH = 512
fabric = Fabric(accelerator="auto", devices=args.devices, precision=args.precision)
fabric.launch()
fabric.seed_everything(42)
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model)
model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=1e-5))
model.train()


def collate(rows):
    """Encode conversations as a padded batch; the loss includes all tokens except padding."""
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    batch = dict(tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    batch["labels"] = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    return batch


rows = [json.loads(line) for line in Path(args.data).read_text(encoding="utf-8").splitlines()]
loader = fabric.setup_dataloaders(DataLoader(rows, args.candidates, shuffle=True, collate_fn=collate))
with BatchSelector(
    args.selector,
    model,
    keep=args.keep,
    max_length=MAX_LENGTH,
    optimizer=optimizer,
    autocast=torch.bfloat16 if args.precision == "bf16-mixed" else None,
    store=args.store,
    name="fabric",
) as selector:
    for batch in loader:
        kept = selector.choose(batch, candidates=args.candidates)
        loss = model(**kept).loss
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    fabric.print(f"loss {loss.item():.3f} after {selector.step} steps")
    fabric.save(args.checkpoint, {"model": model, "optimizer": optimizer, "selector": selector.state_dict()})
