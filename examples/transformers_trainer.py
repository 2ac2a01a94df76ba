"""A transformers Trainer that trains on the best of its candidates.

    python examples/transformers_trainer.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector max_loss

The data is JSON Lines with a column `messages`. A callback would be called too late to select: by then the
Trainer has drawn and counted the batch of the step. So the class is a subclass; for your own Trainer class write
`class Mine(SelectiveMixin, MyTrainer)`. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'trainer'"
"""

import argparse

import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments

from curate.integrations import Selective, SelectiveTrainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="Folder or Hub id.")
parser.add_argument("--data", required=True, help="JSON Lines with a column messages.")
parser.add_argument("--selector", default="max_loss", help="Name of the selector.")
parser.add_argument("--candidates", type=int, default=64, help="Candidates of each step.")
parser.add_argument("--keep", type=int, default=8, help="Samples that each step trains on.")
parser.add_argument("--steps", type=int, default=100, help="Optimizer steps.")
parser.add_argument("--store", default="store", help="Folder of the store, for the ledger.")
parser.add_argument("--output", default="output", help="Folder for checkpoints and the model.")
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
MAX_LENGTH = 512


def tokenize(row):
    """Encode a conversation; the loss includes all tokens."""
    ids = tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"][:MAX_LENGTH]
    return {"input_ids": ids, "labels": ids}


trainer = SelectiveTrainer(
    model=AutoModelForCausalLM.from_pretrained(args.model),
    args=TrainingArguments(
        output_dir=args.output,
        per_device_train_batch_size=args.keep,  # as always: the number of samples trained on
        max_steps=args.steps,
        report_to="none",
    ),
    # Keep the column `messages`: the ledger then has the same sample ids as `curate ingest`.
    train_dataset=datasets.load_dataset("json", data_files=args.data, split="train").map(tokenize),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    selection=Selective(
        args.selector, candidates=args.candidates, max_length=MAX_LENGTH, store=args.store, name="trainer"
    ),
)
trainer.train()
trainer.save_model(args.output)
