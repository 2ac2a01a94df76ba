"""A selection whose last kept and first rejected score are nearly equal is counted: rounding may decide it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.selectors import choose
from curate.stages import make
from curate.store import Store
from curate.training.recorder import NEAR, Counters, StepRecorder


class NoLedger:
    def append(self, step: int, columns: Any) -> None: ...


def counted(total: torch.Tensor, k: int) -> int:
    recorder = StepRecorder(NoLedger())
    recorder.cut(total, k)
    return recorder.counters.near_ties


def slowly(total: torch.Tensor, k: int) -> bool:
    """Compare every kept score with every rejected one."""
    kept = set(choose(total, k).tolist())
    scores = [float(value) for value in total]
    return any(
        scores[i] - scores[j] <= NEAR * max(abs(scores[i]), abs(scores[j]))
        for i in kept
        for j in range(len(scores))
        if j not in kept and scores[j] == scores[j]
    )


def test_the_count_equals_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    ties = 0
    for _ in range(400):
        total = torch.randn(9, generator=generator, dtype=torch.float64)
        source, copy = torch.randperm(9, generator=generator)[:2].tolist()
        total[copy] = total[source] * (1 + (torch.rand(1, generator=generator).item() - 0.5) * 6e-6)
        total[torch.rand(9, generator=generator) < 0.1] = torch.nan
        for k in range(1, 9):
            assert counted(total, k) == slowly(total, k)
            ties += counted(total, k)
    assert 50 < ties < 1000


def test_equal_scores_are_a_tie_and_distant_ones_are_not() -> None:
    assert counted(torch.zeros(4), 2) == 1
    assert counted(torch.tensor([3.0, 2.0, 1.0]), 2) == 0
    assert counted(torch.tensor([1.0, 1.0]), 2) == 0  # nothing is rejected
    assert counted(torch.tensor([1.0, torch.nan]), 1) == 0


def test_processes_add_their_counts_and_older_checkpoints_have_none() -> None:
    counters = Counters(tokens_kept=1)
    counters.add(Counters(near_ties=2))
    counters.add(Counters(near_ties=3))
    assert counters.near_ties == 5 and counters.tokens_kept == 1


def test_the_summary_of_a_run_has_the_count(store: Store, pool_file: Path, tiny: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "blind")
    model: Any = load_model(ModelOptions(tiny))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)  # every loss is ln V
    model.save_pretrained(folder)
    make(store, "ingest", name="pool", data=(str(pool_file),))
    options: dict[str, Any] = {"pool": "pool", "candidates": 8, "keep": 2, "max_steps": 3, "max_length": 64}
    options |= {"learning_rate": 1e-30, "selector": "max_loss"}
    blind = make(store, "train", name="blind", model=str(folder), **options)
    assert blind.summary["near ties"] == 3
    groups = make(store, "train", name="groups", model=str(folder), scope="micro:4", **options)
    assert groups.summary["near ties"] == 6
    seeing = make(store, "train", name="seeing", model=tiny, **options)
    assert seeing.summary["near ties"] is None
    values = store.query("SELECT value FROM metrics WHERE metric = 'near_ties' ORDER BY value").column("value")
    assert values.to_pylist() == [0, 3, 6]
