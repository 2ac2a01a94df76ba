"""A pool whose domains are known, its targets, and warm-up runs on it: what the benchmarks of pool selectors share.

Everything goes through curate's stages into one store, so a second call finds it made; gradient features are kept there
by content too.
"""

from __future__ import annotations

import argparse
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate import Store, make
from curate.log import setup
from curate.store import Artifact

MAX_LENGTH = 512
EPOCHS = 2
WARMUP_SHARE = 0.05
BATCH = 16


class LabelledPool:
    """The pool and what is made from it, each made once.

    Args:
        store: the folder that keeps it all.
        data: a folder with `pool.parquet` (columns id, domain, instruction, input, output) and `targets.parquet` (also
            target).
        model: what warms up and what embeds.
    """

    def __init__(self, store: Path, data: Path, model: Path) -> None:
        self.store = Store(store)
        self.data = data
        self.model = str(model)
        self.pool = make(self.store, "ingest", name="pool", data=[f"pool={data / 'pool.parquet'}"])

    def target(self, name: str) -> Artifact:
        """The rows of one target, as a pool of its own."""
        keep = ("instruction", "input", "output")
        rows = [row for row in pq.read_table(self.data / "targets.parquet").to_pylist() if row["target"] == name]
        if not rows:
            raise SystemExit(f"{self.data / 'targets.parquet'} has no rows of the target {name!r}")
        file = self.store.root / "targets" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({key: row[key] for key in keep}) + "\n" for row in rows), encoding="utf-8")
        return make(self.store, "ingest", name=f"target-{name}", data=[f"{name}={file}"])

    def features(self, of: str) -> Artifact:
        """Embeddings and sketches of a pool by the model as it came."""
        return make(
            self.store,
            "embed",
            name=f"{of}-features",
            pool=of,
            model=self.model,
            max_length=MAX_LENGTH,
            signals=("embedding", "sketch"),
        )

    def warmup(self, seed: int) -> Artifact:
        """A LoRA trained on a random 5 % of the pool, with a checkpoint each epoch."""
        subset = self.select("random", f"warmup-subset-{seed}", budget=WARMUP_SHARE, seed=seed)
        return make(
            self.store,
            "train",
            name=f"warmup-{seed}",
            pool="pool",
            subset=subset.name,
            model=self.model,
            max_length=MAX_LENGTH,
            selector="full",
            candidates=BATCH,
            num_train_epochs=EPOCHS,
            learning_rate=1e-3,
            save_steps=-(-(subset.rows or 0) // BATCH),
            save_total_limit=EPOCHS,
            logging_steps=1,
            seed=seed,
        )

    def select(self, method: str, name: str, *, budget: float = 0.05, seed: int = 0, **values: Any) -> Artifact:
        """A subset of the pool."""
        return make(self.store, "select", method=method, name=name, pool="pool", budget=budget, seed=seed, **values)

    @cached_property
    def rows(self) -> dict[str, dict[str, str]]:
        """Sample id -> domain and noise; of a conversation that is there twice, the first."""
        found: dict[str, dict[str, str]] = {}
        for row in self.store.query(
            "SELECT sample_id, metadata->>'domain' AS domain, metadata->>'noise' AS noise FROM samples "
            "WHERE pool = 'pool' ORDER BY position"
        ).to_pylist():
            found.setdefault(row["sample_id"], row)
        return found


def options(description: str) -> argparse.ArgumentParser:
    """The options that these benchmarks share."""
    shared = Path(__file__).parents[2] / "shared"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs/pool6k"), help="folder that keeps everything made")
    parser.add_argument("--data", type=Path, default=shared / "data/pool6k", help="folder of pool and targets")
    parser.add_argument("--model", type=Path, default=shared / "models/base2m", help="model to warm up")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    return parser


def open_pool(args: argparse.Namespace) -> LabelledPool:
    """The pool that the options name."""
    import torch

    setup()
    torch.set_num_threads(args.threads)
    return LabelledPool(args.store, args.data, args.model)


class Rewards:
    """LESS scores and gradient features of the whole pool, checkpoint by checkpoint.

    Args:
        pool: where.
        target: name of a target.
        seed: of the warm-up run.
    """

    def __init__(self, pool: LabelledPool, target: str, seed: int) -> None:
        from curate.config import build
        from curate.stages.inputs import resolve
        from curate.stages.select.candidates import read_candidates
        from curate.stages.select.config import SelectConfig
        from curate.stages.select.gradient_scores import CheckpointScorer
        from curate.stages.select.stage import gradient_oracle

        names = {"target": pool.target(target).name, "warmup": pool.warmup(seed).name}
        config = build(SelectConfig, {"name": "replay", "method": "less", "pool": "pool", "budget": 0.05, **names})
        inputs = resolve(pool.store, config)
        candidates, _ = read_candidates(inputs, {"rewards"}, "embedding")
        scorer = gradient_oracle(config, inputs, candidates.ids)
        assert isinstance(scorer, CheckpointScorer)
        self.ids = list(candidates.ids)
        self._scorer = scorer

    def features(self, checkpoint: int) -> np.ndarray:
        """(n, D) unit features; NaN for a sample that has none."""
        at = sorted(self._scorer.pool)
        gradients = self._scorer.checkpoints[checkpoint]
        samples = [self._scorer.pool[row] for row in at]
        made = gradients.features(samples, target=False, label=f"checkpoint {checkpoint}")
        gradients.close()
        features = np.full((len(self.ids), made.shape[1]), np.nan, np.float32)
        features[at] = made
        return features

    def scores(self, checkpoint: int, features: np.ndarray) -> np.ndarray:
        """(n,) at one checkpoint, from `features` there."""
        found: np.ndarray = (self._scorer.means @ (features @ self._scorer._targets[checkpoint].T).T).max(0)
        return found
