"""Packed, sorted and padded steps are the same step; a run keeps the way that it began with."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from curate import Artifact, make
from curate.errors import ConfigError
from curate.lm.model.chunked_loss import chunk_loss
from curate.lm.model.scoring_model import make_scoring_model
from curate.lm.packing.packed import LossPacking
from curate.log import LOGGER
from curate.store import Store
from curate.training import batching
from curate.training.batching import Batching, choose, split
from curate.training.step import BatchSelection
from curate.training.trainer import CurateTrainer
from tests.support.families import family
from tests.support.training import interrupted_at, rows, weights

SMALL = {"candidates": 8, "keep": 4, "max_steps": 6, "max_length": 64, "logging_steps": 2, "save_steps": 2}
FAST = {"learning_rate": 1e-3, "selector": "random"}


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


def train(store: Store, tiny: str, name: str, **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **values})


def require_same(one: Artifact, other: Artifact, tolerance: float) -> None:
    """Adam turns rounding of a gradient that is almost zero into steps of any size, so the whole is compared."""
    a, b = weights(one), weights(other)
    off = sum((a[name] - b[name]).double().square().sum() for name in a)
    size = sum(value.double().square().sum() for value in b.values())
    assert a.keys() == b.keys() and (off / size).sqrt() < tolerance  # type: ignore[union-attr]


@pytest.mark.parametrize("selector", ["random", "full"])
@pytest.mark.parametrize("shape", [{}, {"per_device_train_batch_size": 2, "gradient_checkpointing": True}])
def test_packed_sorted_and_padded_runs_end_with_the_same_weights(
    store: Store, pool: Artifact, tiny: str, selector: str, shape: dict[str, Any]
) -> None:
    """The Trainer that keeps all and pads is the plain one to the bit (tests/stages/train/test_train.py)."""
    options = {**FAST, **shape, "selector": selector, "full": True, "max_steps": 3}
    runs = {name: train(store, tiny, name, batching=name, **options) for name in ("padded", "packed", "sorted")}
    split_up = train(store, tiny, "split", batching="packed", train_batch_tokens=64, **options)
    assert {name: run.summary["batches"] for name, run in runs.items()} == {name: name for name in runs}
    for run in (runs["packed"], runs["sorted"], split_up):
        require_same(run, runs["padded"], 1e-5)
        assert rows(store, f"SELECT value FROM metrics WHERE metric = 'loss' AND run = '{run.name}'") != []


@pytest.mark.parametrize("selector", ["greats", "filter_weight", "max_grad"])
def test_gradient_selection_keeps_and_learns_the_same_without_padding(
    store: Store, pool: Artifact, tiny: str, selector: str
) -> None:
    make(store, "ingest", name="target", data=[str(pool.config["data"][0])])
    args = {"selector_args": {"approximation": "parameters"}} if selector == "max_grad" else {"target": "target"}
    options = {"selector": selector, "max_steps": 3, "learning_rate": 1e-4, **args}
    runs = {name: train(store, tiny, name, batching=name, **options) for name in ("padded", "packed", "sorted")}
    split_up = train(store, tiny, "split", train_batch_tokens=64, update="rerun", **options)
    for run in (runs["packed"], runs["sorted"], split_up):
        require_same(run, runs["padded"], 1e-5)
    kept = [
        rows(store, f"SELECT step, sample_id FROM ledger WHERE kept AND run = '{name}' ORDER BY ALL") for name in runs
    ]
    assert kept[0] and kept[0] == kept[1] == kept[2]


def test_by_default_a_run_packs_and_has_the_fingerprint_of_before(store: Store, pool: Artifact, tiny: str) -> None:
    run = train(store, tiny, "auto", **FAST)
    assert run.summary["batches"] == "packed"
    from curate.stages.train.config import TrainConfig

    config = TrainConfig(name="auto", pool="pool", model=tiny, **{**SMALL, **FAST})
    assert not {"batching", "train_batch_tokens"} & config.identity().keys()
    padded = TrainConfig(name="auto", pool="pool", model=tiny, batching="padded", **{**SMALL, **FAST})
    assert padded.identity()["batching"] == "padded"


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.2, "train_batch_tokens": 64}, {"batching": "sorted"}])
def test_an_interrupted_run_ends_as_one_that_was_not(
    store: Store, pool: Artifact, tiny: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = train(store, tiny, "run", **options)
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(pool.config["data"][0])])
    with interrupted_at(4):
        train(other, tiny, "run", **options)
    resumed = train(other, tiny, "run", **options)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    sql = "SELECT * FROM ledger ORDER BY ALL"
    assert other.query(sql).equals(store.query(sql))


def test_a_run_of_an_older_curate_continues_padded(
    store: Store, pool: Artifact, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = train(store, tiny, "padded", batching="padded")
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(pool.config["data"][0])])
    with monkeypatch.context() as older, interrupted_at(4):
        older.setattr(Batching, "record", lambda self: None)
        older.setattr("curate.training.run._batching", lambda *args: Batching())
        train(other, tiny, "run")
    for tally in other.root.rglob("tally-*.json"):  # as if it had been written without the entry
        content = json.loads(tally.read_text())
        assert content.pop("batching") is None
        tally.write_text(json.dumps(content))
        marker = tally.parent / "curate.json"
        about = json.loads(marker.read_text())
        about.pop("files")
        marker.write_text(json.dumps(about))
    resumed = train(other, tiny, "run")
    assert resumed.summary["batches"] == "padded"
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(padded).items())
    score = "SELECT step, sample_id, kept, score, loss FROM ledger ORDER BY ALL"
    assert other.query(score).equals(store.query(score))


def choice(name: str, requested: Any = "auto", tokens: int | None = None, begun: Any = None) -> Batching:
    scoring_model, packing = make_scoring_model(family(name)), LossPacking()
    chunk_loss(scoring_model, 64 << 20, packing)
    return choose(requested, tokens, scoring_model, packing, 40, begun)


@pytest.mark.parametrize(
    ("name", "route", "words"),
    [
        ("llama", "packed", None),
        ("mamba", "sorted", "MambaForCausalLM cannot keep the texts of one row apart here: batches are sorted"),
        ("router loss", "padded", "The gradient of MixtralForCausalLM depends on which texts share a batch"),
    ],
)
def test_a_run_takes_the_first_way_that_is_proved_and_says_what_it_cannot(
    name: str, route: str, words: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, "curate"):
        assert choice(name).route == route
    assert len([record for record in caplog.records if record.name == LOGGER.name]) == (words is not None)
    assert (words or "") in caplog.text


def test_what_cannot_be_done_is_one_sentence_before_the_first_step(
    store: Store, pool: Artifact, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"MambaForCausalLM cannot keep .* Leave out --batching packed"):
        choice("mamba", "packed")
    with pytest.raises(ConfigError, match=r"--train-batch-tokens 39 is less than the longest text has, 40 tokens"):
        choice("llama", tokens=39)
    with pytest.raises(ConfigError, match="leave out --batching padded"):
        train(store, tiny, "x", batching="padded", train_batch_tokens=512)
    monkeypatch.setattr(BatchSelection, "select", None)  # no step begins
    with pytest.raises(ConfigError, match="--train-batch-tokens 8 is less than the longest text"):
        train(store, tiny, "x", train_batch_tokens=8)


def test_a_resumed_run_keeps_its_way_and_its_budget(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    begun = {"route": "packed", "tokens": 77, "scoring": True}
    found = choice("llama", begun=begun)
    assert found.record() == begun
    with caplog.at_level(logging.INFO, "curate"):
        assert choice("llama", "padded", begun=begun).route == "packed"
    assert (
        "The run began with batches packed in rows without padding, so --batching padded has no effect" in caplog.text
    )
    old = {"route": "padded", "tokens": None, "scoring": False}
    assert choice("llama", begun=old).record() == old


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tokens", [40, 64, 100, 10_000])
def test_parts_hold_every_text_once_and_at_most_the_budget(tokens: int, padded: bool) -> None:
    lengths = sorted([40, 31, 30, 30, 22, 9, 9, 3, 1, 1], reverse=True)
    parts = split(lengths, tokens, padded=padded)
    assert [at for part in parts for at in part] == list(range(len(lengths)))
    for part in parts:
        own = [lengths[at] for at in part]
        assert (len(own) * own[0] if padded else sum(own)) <= tokens
    for part, following in pairwise(parts):  # one more would not have fitted
        own = [lengths[at] for at in part]
        assert (len(own) + 1) * own[0] > tokens if padded else sum(own) + lengths[following.start] > tokens


def test_a_micro_batch_is_not_split_if_its_losses_would_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are not told the tokens of the step take the mean of each batch."""
    seen: list[int] = []
    trainer = object.__new__(CurateTrainer)
    trainer.batching, trainer.model_accepts_loss_kwargs = Batching("sorted", 4), False
    monkeypatch.setattr(CurateTrainer, "args", type("A", (), {"device": torch.device("cpu")})(), raising=False)
    monkeypatch.setattr(batching.Batching, "parts", lambda self, batch: pytest.fail("it was split"))
    monkeypatch.setattr(
        "curate.training.resuming_trainer.Trainer.training_step",
        lambda self, model, part, count: seen.append(len(part["input_ids"])) or torch.zeros(()),
    )
    trainer._passes(torch.nn.Linear(1, 1), {"input_ids": torch.zeros(5, 3)}, torch.tensor(3))
    assert seen == [5]
