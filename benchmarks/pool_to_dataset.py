"""The whole way on a real pool: ingest, embed, cluster, train with UDS, ask, export, and train on what was exported.

Prints wall time by part, the answers of three questions, and as its last line JSON with the seconds by stage and by
part of training, and `arithmetic_share`: score arithmetic over the scoring forward pass.

    python benchmarks/pool_to_dataset.py --data pool.parquet --model ./model --store runs/whole
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from curate import Artifact, Store, make
from curate.log import setup

QUESTIONS = {
    "most often kept": """
        SELECT sample_id, count(*) AS times_kept, round(avg(score), 1) AS score
        FROM ledger WHERE run = 'run' AND kept GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5""",
    "kept share by source": """
        SELECT s.metadata->>'source' AS source, count(*) AS scored, round(avg(kept::INT), 3) AS kept_share
        FROM ledger l JOIN samples s ON s.pool = 'pool' AND s.position = l.position
        WHERE l.run = 'run' GROUP BY 1 ORDER BY 3 DESC LIMIT 8""",
    "kept share by cluster": """
        SELECT c.cluster, count(*) AS scored, round(avg(kept::INT), 3) AS kept_share
        FROM ledger l JOIN clusters c USING (sample_id)
        WHERE l.run = 'run' AND c.clusters = 'clusters' GROUP BY 1 ORDER BY 3 DESC LIMIT 8""",
    "never kept": """
        SELECT count(*) AS never_kept, round(avg(loss), 2) AS loss, round(avg(tokens)) AS tokens FROM (
            SELECT sample_id, avg(loss) AS loss, any_value(tokens) AS tokens FROM ledger WHERE run = 'run'
            GROUP BY 1 HAVING NOT bool_or(kept))""",
}


def train_plainly(folder: Path, model: str, options: dict[str, Any]) -> float:
    """One step of a plain Trainer on the exported data set; returns its loss."""
    import functools

    from datasets import load_from_disk
    from transformers import Trainer, TrainingArguments

    from curate.formats import detect, to_sample
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model, load_tokenizer
    from curate.lm.tokens.batch import collate
    from curate.lm.tokens.encode import Encoder, encode_all
    from curate.lm.tokens.token_table import TokenTable

    rows = load_from_disk(str(folder)).select(range(16)).to_list()
    layout = detect(rows, {}, str(folder))
    chosen = ModelOptions(model, chat_template=options.get("chat_template"))
    tokenizer = load_tokenizer(chosen)
    samples = ((i, to_sample(row, layout)) for i, row in enumerate(rows))
    encoded = list(encode_all(samples, Encoder(tokenizer, max_length=options["max_length"]), {}))
    table = TokenTable(encoded)
    data = [table[i] for i in range(len(table))]
    arguments = TrainingArguments(
        output_dir=str(folder.parent / "plain"),
        max_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
    )

    pad = functools.partial(collate, pad_token_id=int(tokenizer.pad_token_id or 0))
    trainer = Trainer(model=load_model(chosen), args=arguments, train_dataset=data, data_collator=pad)
    return float(trainer.train().training_loss)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--store", default="runs/whole")
    parser.add_argument("--chat-template")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    setup()
    store = Store(args.store)
    reading = {"model": args.model, "max_length": args.max_length, "chat_template": args.chat_template}
    seconds: dict[str, float] = {}

    def stage(which: str, /, **values: Any) -> Artifact:
        start = time.perf_counter()
        artifact = make(store, which, **values)
        seconds[which] = round(time.perf_counter() - start, 1)
        print(f"{which}: {seconds[which]} s", {k: v for k, v in artifact.summary.items() if not isinstance(v, list)})
        return artifact

    stage("ingest", name="pool", data=[args.data])
    stage("embed", name="feats", pool="pool", **reading)
    stage("cluster", name="clusters", features="feats", k=50)
    run = stage("train", name="run", pool="pool", candidates=64, keep=8, max_steps=args.steps, **reading)
    for question, sql in QUESTIONS.items():
        start = time.perf_counter()
        answer = store.query(sql).to_pylist()
        print(f"\n{question} ({time.perf_counter() - start:.2f} s)", *answer, sep="\n  ")
    exported = Path(args.store) / "exported"
    stage("export", name="curated", run="run", to=str(exported))
    loss = train_plainly(exported, args.model, reading)
    print(f"one step of a plain Trainer on the exported data set: loss {loss:.3f}")
    parts = run.summary["seconds"]
    print(
        json.dumps(
            {"seconds": seconds, "training": parts, "plain_loss": loss}
            | {"arithmetic_share": round(parts["score_arithmetic"] / parts["scoring_forward"], 3)}
        )
    )


if __name__ == "__main__":
    main()
