"""RDS+ from texts to a subset: position-weighted vectors of a model, and target samples that take turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate import make
from curate.config import build
from curate.lm.model.load import load_model, load_tokenizer
from curate.stages.embed.config import EmbedConfig
from curate.stages.tokens.tokenization import encode_pool
from curate.store import Store

OPTIONS: dict[str, Any] = {"max_length": 64}
SIZE = 9


def vectors_by_hand(store: Store, pool: str, tiny: str) -> tuple[list[str], np.ndarray]:
    """Σ t h_t / Σ t of each text alone, by the model's own last hidden states, at unit length."""
    config = build(EmbedConfig, {"name": "x", "pool": pool, "model": tiny, **OPTIONS})
    options = config.options(tiny)
    model = load_model(options).eval()
    table = encode_pool(config, load_tokenizer(options), store.get(pool), distinct=True).table
    rows = []
    for row in range(len(table)):
        ids = torch.as_tensor(table[row]["input_ids"])[None].long()
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        at = torch.arange(1, len(hidden) + 1).double()
        rows.append((hidden * at[:, None]).sum(0) / at.sum())
    matrix = torch.stack(rows).numpy()
    return table.ids, matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_weighted_vectors_of_a_model_select_what_the_target_is_most_similar_to(
    store: Store, pool_file: Path, tiny: str
) -> None:
    rows = [json.loads(line) for line in pool_file.read_text().splitlines()[:24]]
    wanted = [{"instruction": f"Add {i} and {i}.", "input": "", "output": f"{2 * i} " * i} for i in (2, 3, 5)]
    for name, part in (("pool", rows), ("goal", wanted)):
        path = store.root.parent / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        make(store, "ingest", name=name, data=[str(path)])
        make(store, "embed", name=f"{name}-plus", pool=name, model=tiny, signals=["weighted_embedding"], **OPTIONS)
    chosen = make(
        store,
        "select",
        name="plus",
        pool="pool",
        method="rds",
        on="weighted_embedding",
        features="pool-plus",
        target_features="goal-plus",
        budget=SIZE,
    )
    ids, pool = vectors_by_hand(store, "pool", tiny)
    _, goal = vectors_by_hand(store, "goal", tiny)
    cosines = pool @ goal.T
    expected: list[tuple[str, float]] = []
    for turn in range(SIZE):
        left = [row for row in range(len(ids)) if ids[row] not in dict(expected)]
        best = max(left, key=lambda row: cosines[row, turn % 3])
        expected.append((ids[best], cosines[best, turn % 3]))
    table = chosen.table().to_pylist()
    assert [row["sample_id"] for row in table] == [sample_id for sample_id, _ in expected]
    np.testing.assert_allclose([row["score"] for row in table], [score for _, score in expected], atol=2e-3)
    plain = make(store, "embed", name="plain", pool="pool", model=tiny, signals=["embedding"], **OPTIONS)
    assert set(plain.table().column_names) == {"sample_id", "embedding"}
    assert set(store.get("pool-plus").table().column_names) == {"sample_id", "weighted_embedding"}
