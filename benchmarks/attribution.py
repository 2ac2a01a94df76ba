"""Does `curate attribute` predict what happens to a model when it is trained without some samples?

LDS (linear datamodeling score, Park et al., TRAK, ICML 2023): the model is trained again on random halves of a small
pool. For each query, the sum of the influence of the samples in a half predicts the query's loss after training on
that half. The score is Spearman's correlation of prediction and loss over the halves, a mean over queries; 1 is
perfect, 0 is chance. `tfidf` is the similarity of the texts in place of influence, and `seed` the correlation of the
losses of two retrainings on the same halves in another order: no prediction of one can be expected to do better.

Removal: the model is trained without the samples of the highest mean influence on the queries, and without as many
random ones; the loss of the queries should rise more.

    python benchmarks/attribution.py MODEL --data pool6k --store runs/attribution --out attribution.json

Prints its tables, and JSON as the last line. It goes on where it was stopped: the store keeps the runs.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from curate import Artifact, Store, make
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model, load_tokenizer
from curate.lm.tokens.batch import collate
from curate.numerics.losses import IGNORE
from curate.stages.select.warmup_samples import recorded_settings
from curate.stages.tokens.tokenization import encode_pool

Floats = npt.NDArray[np.float64]

TRAIN = {
    "selector": "full",
    "candidates": 10,
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "max_length": 96,
    "full": True,
    "logging_steps": 1,
}
METHODS: dict[str, dict[str, Any]] = {
    "adam": {"metric": "adam"},
    "adam, last checkpoint": {"metric": "adam", "last": True},
    "plain": {"metric": "plain"},
    "less": {"metric": "less"},
    "adam, sketched to 1024": {"metric": "adam", "sketch_dim": 1024},
}
POOL = {"math": 50, "general": 25, "cot": 20, "mcq": 25}
"""Domain -> number of rows of the pool."""
QUERIES = {"gsm8k": 12, "mcq": 8}
"""Set of targets -> number of queries."""
REMOVED = (0.01, 0.05, 0.1)


def rows_of(file: Path, column: str, counts: dict[str, int], characters: int) -> list[dict[str, Any]]:
    """Return the first short rows of each group, without the rows that are spoiled on purpose."""
    found: list[dict[str, Any]] = []
    for name, count in counts.items():
        rows = [row for row in pq.read_table(file).to_pylist() if row[column] == name and not row.get("noise")]
        parts = ("instruction", "input", "output")
        short = [row for row in rows if sum(len(row[part] or "") for part in parts) <= characters and row["output"]]
        found += [{part: row[part] for part in parts} for row in short[:count]]
    return found


class Bench:
    """The pool, the queries, and runs on parts of the pool.

    Args:
        model: folder of the model.
        data: folder with pool.parquet and targets.parquet.
        store: folder of the store.
    """

    def __init__(self, model: str, data: Path, store: Path) -> None:
        self.model, self.folder, self.store = model, store, Store(store)
        self.rows = rows_of(data / "pool.parquet", "domain", POOL, 280)
        self.queries = rows_of(data / "targets.parquet", "target", QUERIES, 300)
        self.pool, self.all = self.ingested("pool", self.rows), self.ingested("queries", self.queries)
        self.first = self.ingested("queries-first", self.queries[: next(iter(QUERIES.values()))])
        self.ids: list[str] = self.pool.table(["sample_id"])["sample_id"].to_pylist()
        self.query_ids: list[str] = self.all.table(["sample_id"])["sample_id"].to_pylist()

    def ingested(self, name: str, rows: Sequence[dict[str, Any]]) -> Artifact:
        """Return a pool of these rows."""
        file = self.folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return make(self.store, "ingest", name=name, data=(str(file),))

    def trained(self, name: str, keep: npt.NDArray[np.bool_], **options: Any) -> Artifact:
        """Return a run on the rows of the pool that are kept."""
        pool = self.ingested(f"{name}-pool", [row for row, kept in zip(self.rows, keep, strict=True) if kept])
        return make(self.store, "train", **{"name": name, "pool": pool.name, "model": self.model, **TRAIN, **options})

    @functools.cached_property
    def texts(self) -> list[Mapping[str, Any]]:
        """The queries as the runs read texts, in the order of the pool."""
        settings = recorded_settings(self.store.get("whole"), allowed=False)
        table = encode_pool(settings, load_tokenizer(settings.options(self.model)), self.all, distinct=True).table
        assert table.ids == self.query_ids
        return [table[row] for row in range(len(table))]

    @torch.no_grad()
    def losses(self, run: Artifact) -> Floats:
        """Return the mean loss of each query's target tokens after a run, (queries,)."""
        model, batch = load_model(ModelOptions(str(run.files))).eval(), collate(self.texts, 0)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        each = torch.nn.functional.cross_entropy(logits.mT.float(), targets, ignore_index=IGNORE, reduction="none")
        return np.asarray((each.double().sum(1) / (targets != IGNORE).sum(1)).numpy())

    def influence(self, name: str, queries: str, *, last: bool = False, **options: Any) -> Floats:
        """Return the influence of each row of the pool on each query, (rows, queries), 0 for a row not trained on."""
        steps = self.checkpoints()
        made = make(
            self.store,
            "attribute",
            **{"name": name, "run": "whole", "pool": queries, "top": len(self.rows), **options},
            checkpoints=steps[-1:] if last else (),
        )
        sql = (
            "SELECT query_id, sample_id, influence FROM attributions WHERE attribution = $name AND query_id IS NOT NULL"
        )
        rows = self.store.query(sql, {"name": made.name}).to_pylist()
        by_pair = {(row["sample_id"], row["query_id"]): row["influence"] for row in rows}
        asked = list(dict.fromkeys(row["query_id"] for row in rows))
        order = [each for each in self.query_ids if each in set(asked)]
        return np.array([[by_pair.get((own, query), 0.0) for query in order] for own in self.ids])

    def checkpoints(self) -> tuple[int, ...]:
        """Return the steps of the checkpoints of the run on the whole pool."""
        folder = self.store.get("whole").path / "checkpoints"
        return tuple(sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")))

    def similarity(self) -> Floats:
        """Return the TF-IDF cosine of each row with each query."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [" ".join(str(part) for part in row.values()) for row in (*self.rows, *self.queries)]
        vectors = TfidfVectorizer().fit_transform(texts)
        return np.asarray((vectors[: len(self.rows)] @ vectors[len(self.rows) :].T).todense())


def ranks(values: Floats) -> Floats:
    """Return the ranks of values along the first axis."""
    return values.argsort(0).argsort(0).astype(float)


def spearman(a: Floats, b: Floats) -> Floats:
    """Return Spearman's correlation of each column, (m, q) and (m, q) -> (q,)."""
    a, b = (ranks(each) - (len(each) - 1) / 2 for each in (a, b))
    return np.asarray((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0)))


def halves(bench: Bench, count: int, again: int) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Return random halves (m, rows), the losses of queries after each (m, q), and those of another seed (again, q)."""
    draw = np.random.default_rng(0)
    masks = np.array([draw.permutation(len(bench.rows)) < len(bench.rows) // 2 for _ in range(count)])
    losses = []
    for number, mask in enumerate(masks):
        losses.append(bench.losses(bench.trained(f"half-{number}", mask)))
        print(f"half {number}: mean loss of the queries {losses[-1].mean():.4f}", flush=True)
    repeated = []
    for number, mask in enumerate(masks[:again]):
        repeated.append(bench.losses(bench.trained(f"half-{number}-again", mask, seed=7)))
    return masks, np.array(losses), np.array(repeated)


def lds(bench: Bench, count: int, again: int) -> dict[str, Any]:
    """Return the score of each method: mean over queries and its standard error, and that of the mean loss."""
    masks, losses, repeated = halves(bench, count, again)
    predicted: dict[str, Floats] = {"tfidf": bench.similarity()}
    for method, options in METHODS.items():
        predicted[method] = bench.influence(method.replace(", ", "-").replace(" ", "-"), "queries", **options)
    found = {}
    for method, influence in predicted.items():
        found[method] = _score(masks @ influence, -losses)
    if len(repeated):
        found["seed"] = _score(repeated, losses[: len(repeated)])
    return found


def _score(predicted: Floats, measured: Floats) -> dict[str, float]:
    each = spearman(predicted, measured)
    mean = spearman(predicted.mean(1, keepdims=True), measured.mean(1, keepdims=True))
    return {"lds": each.mean(), "stderr": each.std(ddof=1) / len(each) ** 0.5, "of_mean": float(mean[0])}


def removal(bench: Bench, draws: int) -> list[dict[str, Any]]:
    """Return by how much the loss of the first queries rises without the top samples, and without random ones."""
    of_first = slice(0, next(iter(QUERIES.values())))
    before = bench.losses(bench.store.get("whole"))[of_first].mean()
    mean = bench.influence("first", bench.first.name, metric="adam").mean(1)
    draw, found = np.random.default_rng(1), []
    for share in REMOVED:
        count = max(1, round(share * len(bench.rows)))
        groups = {"top": np.argsort(-mean)[:count], "bottom": np.argsort(mean)[:count]}
        groups |= {f"random {n}": draw.permutation(len(bench.rows))[:count] for n in range(draws)}
        rises: dict[str, float] = {}
        for label, rows in groups.items():
            keep = np.ones(len(bench.rows), bool)
            keep[rows] = False
            name = f"without-{count}-{label.replace(' ', '-')}"
            rises[label] = float(bench.losses(bench.trained(name, keep))[of_first].mean() - before)
        others = np.array([rise for label, rise in rises.items() if label.startswith("random")])
        line = {"share": share, "rows": count, "top": rises["top"], "bottom": rises["bottom"]}
        found.append(
            {**line, "random": others.mean(), "random_sd": others.std(ddof=1), "predicted": mean[groups["top"]].sum()}
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--halves", type=int, default=32)
    parser.add_argument("--again", type=int, default=8)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    bench = Bench(options.model, options.data, options.store)
    bench.trained("whole", np.ones(len(bench.rows), bool), save_steps=6, save_total_limit=20)
    result: dict[str, Any] = {"rows": len(bench.rows), "queries": len(bench.queries), "halves": options.halves}
    result["checkpoints"] = bench.checkpoints()
    result["lds"] = lds(bench, options.halves, options.again)
    result["removal"] = removal(bench, options.draws)
    for method, score in result["lds"].items():
        print(f"{method:24} LDS {score['lds']:+.3f} ± {score['stderr']:.3f}, of the mean loss {score['of_mean']:+.3f}")
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
