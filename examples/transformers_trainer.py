"""A plain transformers Trainer that trains on the best of its candidates.

    python examples/transformers_trainer.py --model Qwen/Qwen2.5-0.5B --data chats.jsonl --selector max_loss

The data is JSON Lines with a column `messages`. A callback would come too late to choose (the Trainer has drawn and
counted a step's batch before it says that the step begins), so the class is another; with a Trainer class of your own
it is `class Mine(SelectiveMixin, MyTrainer)`. Afterwards: curate query "SELECT * FROM ledger WHERE run = 'trainer'"
"""

import argparse

import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments

from curate.integrations import Selective, SelectiveTrainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="Folder or Hub id.")
parser.add_argument("--data", required=True, help="JSON Lines with a column messages.")
parser.add_argument("--selector", default="max_loss", help="Which selector chooses.")
parser.add_argument("--candidates", type=int, default=64, help="How many samples each step chooses from.")
parser.add_argument("--keep", type=int, default=8, help="How many it trains on.")
parser.add_argument("--steps", type=int, default=100, help="Optimizer steps.")
parser.add_argument("--store", default="store", help="Where the ledger goes.")
parser.add_argument("--output", default="output", help="Where checkpoints and the model go.")
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
MAX_LENGTH = 512


def tokenize(row):
    """Tokens of a conversation; the loss looks at all of them."""
    ids = tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"][:MAX_LENGTH]
    return {"input_ids": ids, "labels": ids}


trainer = SelectiveTrainer(
    model=AutoModelForCausalLM.from_pretrained(args.model),
    args=TrainingArguments(
        output_dir=args.output,
        per_device_train_batch_size=args.keep,  # means what it always did: samples trained on
        max_steps=args.steps,
        report_to="none",
    ),
    # The column `messages` stays: the ledger calls a sample what `curate ingest` would.
    train_dataset=datasets.load_dataset("json", data_files=args.data, split="train").map(tokenize),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    selection=Selective(
        args.selector, candidates=args.candidates, max_length=MAX_LENGTH, store=args.store, name="trainer"
    ),
)
trainer.train()
trainer.save_model(args.output)
