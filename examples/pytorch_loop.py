"""A PyTorch training loop that trains on the best of its candidates, and resumes from its last epoch.

    python examples/pytorch_loop.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector uds

The data is JSON Lines with a column `messages`. Selection is one line between the data loader and the
forward pass: `kept = selector.choose(batch)`. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'loop'"
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.integrations import BatchSelector

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="Folder or Hub id.")
parser.add_argument("--data", required=True, help="JSON Lines with a column messages.")
parser.add_argument("--selector", default="uds", help="Name of the selector.")
parser.add_argument("--candidates", type=int, default=64, help="Candidates of each step.")
parser.add_argument("--keep", type=int, default=8, help="Samples that each step trains on.")
parser.add_argument("--epochs", type=int, default=1, help="Passes over the data as candidates.")
parser.add_argument("--store", default="store", help="Folder of the store, for the ledger.")
parser.add_argument("--checkpoint", default="loop.pt", help="File for the state, to resume from.")
args = parser.parse_args()

MAX_LENGTH = 512
device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)


def collate(rows):
    """Encode conversations as a padded batch; the loss includes all tokens except padding."""
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    batch = dict(tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    batch["labels"] = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    return batch


rows = [json.loads(line) for line in Path(args.data).read_text(encoding="utf-8").splitlines()]
selector = BatchSelector(
    args.selector, model, keep=args.keep, max_length=MAX_LENGTH, optimizer=optimizer, store=args.store, name="loop"
)
first = 0
if Path(args.checkpoint).exists():
    state = torch.load(args.checkpoint)
    first = state["epoch"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    selector.load_state_dict(state["selector"])  # the memory, and the position in the ledger

with selector:  # at the end of the block the run becomes an artifact
    for epoch in range(first, args.epochs):
        order = torch.Generator().manual_seed(epoch)
        for batch in DataLoader(rows, args.candidates, shuffle=True, generator=order, collate_fn=collate):
            batch = {key: value.to(device) for key, value in batch.items()}
            kept = selector.choose(batch, candidates=args.candidates)
            loss = model(**kept).loss  # if the selector weights samples: kept.loss(logits), and weighted=True above
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f} after {selector.step} steps")
        state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "selector": selector.state_dict()}, args.checkpoint)
