"""Training with selection: what it keeps, what it writes down; plain training where nothing is chosen."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from curate import Artifact, make
from curate.errors import ConfigError, DataError, TrainingError
from curate.store import Store
from tests.support.training import interrupted_at, rows, weights

SMALL = {"candidates": 8, "keep": 4, "max_steps": 6, "max_length": 64, "logging_steps": 2, "save_steps": 2}


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **values})


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_keeping_all_is_plain_training_bit_for_bit(store: Store, pool: Artifact, tiny: str, full: bool) -> None:
    from transformers import Trainer, TrainingArguments, set_seed

    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import add_lora, load_model, load_tokenizer
    from curate.lm.tokens.batch import collate
    from curate.lm.tokens.encode import Encoder, encode_all
    from curate.lm.tokens.token_table import TokenTable
    from curate.stages.pools import pool_samples
    from curate.stages.train.stage import TrainConfig, _arguments

    shape = {"selector": "full", "per_device_train_batch_size": 4, "max_steps": 5, "lora_dropout": 0.1, "full": full}
    shape |= {"batching": "padded"}
    ours = train(store, tiny, **shape)
    config = TrainConfig(name="x", pool="pool", model=tiny, **{**SMALL, **shape})
    assert config.accumulation == 2
    tokenizer = load_tokenizer(ModelOptions(tiny))
    table = TokenTable(encode_all(pool_samples(pool), Encoder(tokenizer, max_length=64), {}))
    arguments = TrainingArguments(output_dir=str(store.root / "plain"), **_arguments(config))
    set_seed(arguments.seed)
    model = load_model(ModelOptions(tiny))
    if not full:
        model = add_lora(model, r=8, alpha=16, dropout=0.1, target_modules="all-linear")

    pad = functools.partial(collate, pad_token_id=tokenizer.pad_token_id)
    trainer = Trainer(model=model, args=arguments, train_dataset=table, data_collator=pad)
    trainer.train()
    trainer.save_model(str(store.root / "plain"))
    plain = load_file(next((store.root / "plain").glob("*model.safetensors")))
    mine = weights(ours)
    assert mine.keys() == plain.keys()
    assert all(torch.equal(mine[name], plain[name]) for name in plain)


def test_the_ledger_has_every_candidate_of_every_step(store: Store, pool: Artifact, tiny: str) -> None:
    run = train(store, tiny)
    steps = rows(store, "SELECT step, count(*) n, count_if(kept) k, count(DISTINCT slot) s FROM ledger GROUP BY 1")
    assert sorted((row["step"], row["n"], row["k"], row["s"]) for row in steps) == [(i, 8, 4, 8) for i in range(1, 7)]
    assert run.rows == 24
    odd = "SELECT count(*) n FROM ledger WHERE score IS NULL OR loss IS NULL OR parts['utility'] IS NULL OR tokens < 5"
    assert rows(store, odd) == [{"n": 0}]
    lowest = """SELECT count(*) n FROM ledger a JOIN ledger b USING (run, step)
                WHERE a.kept AND NOT b.kept AND a.score < b.score"""
    assert rows(store, lowest) == [{"n": 0}]
    assert rows(store, "SELECT DISTINCT run FROM ledger") == [{"run": "run"}]


def test_the_memory_is_in_the_catalogue_and_holds_the_kept(store: Store, pool: Artifact, tiny: str) -> None:
    train(store, tiny)
    held = rows(store, "SELECT sample_id, step, len(sketch) n FROM memory ORDER BY row")
    kept = rows(store, "SELECT sample_id, step FROM ledger WHERE kept ORDER BY step, slot")
    assert [(row["sample_id"], row["step"]) for row in held] == [(row["sample_id"], row["step"]) for row in kept]
    assert {row["n"] for row in held} == {1024}


def test_the_ledgers_loss_is_that_of_the_model_before_the_step(store: Store, pool: Artifact, tiny: str) -> None:
    train(store, tiny, max_steps=1, selector="max_loss")
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64)
    both = rows(
        store, "SELECT l.loss a, f.loss b, l.score s FROM ledger l JOIN features f USING (sample_id) WHERE step = 1"
    )
    assert len(both) == 8
    for row in both:
        assert abs(row["a"] - row["b"]) < 1e-4 and abs(row["a"] - row["s"]) < 1e-6


@pytest.mark.parametrize("selector", ["random", "full"])
def test_selectors_without_signals_cost_no_scoring_pass(store: Store, pool: Artifact, tiny: str, selector: str) -> None:
    run = train(store, tiny, selector=selector)
    assert "scoring_forward" not in run.summary["seconds"]
    assert rows(store, "SELECT count(loss) n FROM ledger") == [{"n": 0}]


def test_in_groups_the_best_of_each_is_kept(store: Store, pool: Artifact, tiny: str) -> None:
    train(store, tiny, candidates=12, keep=3, scope="micro:4")
    groups = rows(
        store,
        """SELECT step, slot // 4 g, count_if(kept) k, max(score) FILTER (kept) = max(score) best
           FROM ledger GROUP BY ALL""",
    )
    assert len(groups) == 18 and all(row["k"] == 1 and row["best"] for row in groups)


@pytest.mark.parametrize("options", [{}, {"full": True}, {"gradient_checkpointing": True, "lora_dropout": 0.2}])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    store: Store, pool: Artifact, tiny: str, options: dict[str, Any], tmp_path: Path
) -> None:

    shape = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "max_steps": 20, **options}
    whole = train(store, tiny, "whole", **shape)
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(pool.config["data"][0])])
    with interrupted_at(17):
        train(other, tiny, "whole", **shape)
    live = rows(other, "SELECT max(step) s FROM ledger")
    assert live[0]["s"] >= 16
    resumed = train(other, tiny, "whole", **shape)
    assert resumed.fingerprint == whole.fingerprint
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    for table in ("ledger", "memory"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert other.query(sql).equals(store.query(sql))


def poison(tiny: str, folder: Path, text: str) -> str:
    """A copy of the model that gives NaN for any text with this token in it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    token = tokenizer(text, add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("selector", ["uds", "random", "full"])
def test_a_sample_that_is_not_finite_is_named_and_kept_out(
    store: Store, tiny: str, tmp_path: Path, selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.lm.model.load.require_finite", lambda model, location: None)  # it names the weight
    lines = [f'{{"prompt": "Say {i}.", "completion": "{"%" if i in (3, 17) else "ok"}"}}' for i in range(40)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    make(store, "ingest", name="pool", data=[str(tmp_path / "p.jsonl")])
    model = poison(tiny, tmp_path / "nan", "%")
    with pytest.raises(TrainingError, match="more than --max-bad-samples 0"):
        train(store, model, selector=selector, max_steps=-1, logging_steps=1, max_bad_samples=0)
    run = train(store, model, selector=selector, max_steps=-1, logging_steps=1)
    assert all(value.isfinite().all() for value in weights(run).values())
    bad = rows(store, "SELECT r.sample_id, s.position FROM rejects r JOIN samples s USING (sample_id)")
    positions = {row["position"] for row in bad}
    assert positions and positions <= {3, 17} and run.summary["not finite"] == len(positions)
    if selector == "uds":
        assert rows(store, "SELECT count(*) n FROM ledger WHERE kept AND position IN (3, 17)") == [{"n": 0}]


def test_large_logits_are_chunked_and_the_result_is_the_same(store: Store, pool: Artifact, tiny: str) -> None:
    plain, chunked = (
        train(store, tiny, str(budget), logits_budget_mb=budget, learning_rate=1e-3) for budget in (64, 0)
    )
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(chunked)[name], value, rtol=1e-3, atol=1e-5)


def test_a_held_out_pool_is_measured_at_the_end(store: Store, pool: Artifact, tiny: str) -> None:
    train(store, tiny, eval_pool="pool")
    assert len(rows(store, "SELECT value FROM metrics WHERE metric = 'eval_loss' AND step = 6")) == 1


def test_a_memory_per_cluster_takes_its_clusters_from_the_store(store: Store, pool: Artifact, tiny: str) -> None:
    make(store, "embed", name="feats", pool="pool", model=tiny, max_length=64)
    make(store, "cluster", name="clusters", features="feats", k=3)
    args = {"memory": 6, "memory_policy": "per_cluster"}
    with pytest.raises(ConfigError, match="needs --clusters"):
        train(store, tiny, selector_args=args)
    train(store, tiny, selector_args=args, clusters="clusters")
    held = rows(store, "SELECT DISTINCT cluster FROM memory JOIN clusters USING (sample_id)")
    seen = rows(store, "SELECT DISTINCT cluster FROM ledger JOIN clusters USING (sample_id) WHERE kept")
    assert len(held) == len(seen)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 9}, r"keep \(9\) is more than candidates \(8\)"),
        ({"selector": "udss"}, "Did you mean 'uds'"),
        ({"selector_args": {"alpa": 1}}, "Did you mean 'alpha'"),
        ({"scope": "micro"}, "'global', 'rank' or 'micro:N'"),
        ({"scope": "micro:3"}, "each group of 3"),
        ({"keep": 5, "per_device_train_batch_size": 3}, "must be multiples of the 2 micro-batches"),
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"report_to": "mlfow"}, "there is no tracker 'mlfow'. Did you mean 'mlflow'"),
        ({"report_to": ["none", "mlflow"]}, "none goes with no tracker"),
    ],
)
def test_impossible_options_raise_an_error(store: Store, tiny: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(store, tiny, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_scheduler_type": "wavy"}, "The Trainer does not accept these options: wavy is not a valid SchedulerType"),
        ({"report_to": "wandb"}, r"needs the package wandb: pip install"),
    ],
)
def test_options_that_the_trainer_does_not_accept_raise_an_error(
    store: Store, pool: Artifact, tiny: str, values: dict[str, Any], message: str
) -> None:
    if "wandb" in message and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(ConfigError, match=message):
        train(store, tiny, **values)


def test_bfloat16_computes_on_a_cpu_too(store: Store, pool: Artifact, tiny: str) -> None:
    run = train(store, tiny, bf16=True, max_steps=2)
    assert all(value.isfinite().all() for value in weights(run).values())


def test_a_pool_with_nothing_to_train_on_is_an_error(store: Store, pool: Artifact, tiny: str) -> None:
    with pytest.raises(DataError, match="120 samples of 'pool' have nothing to train on"):
        train(store, tiny, max_length=4)


def test_strict_makes_a_rejected_sample_an_error(store: Store, pool: Artifact, tiny: str, tmp_path: Path) -> None:
    long = f'{{"prompt": "{"a b " * 100}", "completion": "c"}}\n{{"prompt": "a", "completion": "c"}}'
    (tmp_path / "long.jsonl").write_text(long)
    make(store, "ingest", name="pool", data=[str(tmp_path / "long.jsonl")])
    with pytest.raises(DataError, match="1 samples of 'pool' have nothing to train on"):
        train(store, tiny, strict=True)
    run = train(store, tiny, candidates=1, keep=1, max_steps=1)
    assert run.summary["rejected"] == 1
    assert rows(store, "SELECT count(*) n FROM ledger") == [{"n": 1}]


def test_losses_that_only_the_ledger_uses_can_be_skipped(store: Store, pool: Artifact, tiny: str) -> None:
    train(store, tiny, name="with")
    train(store, tiny, name="without", candidate_losses=False)
    kept = "SELECT step, slot, sample_id, kept, score FROM ledger WHERE run = $name ORDER BY ALL"
    assert store.query(kept, {"name": "with"}).equals(store.query(kept, {"name": "without"}))
    counts = "SELECT run, count(loss) AS n FROM ledger GROUP BY 1 ORDER BY 1"
    assert rows(store, counts) == [{"run": "with", "n": 48}, {"run": "without", "n": 0}]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("selector", ["uds", "greats"])
def test_an_adapter_is_trained_on_weights_of_four_bits(store: Store, pool: Artifact, tiny: str, selector: str) -> None:
    extra = {"target": "pool", "target_batch_size": 4} if selector == "greats" else {}
    run = train(store, tiny, load_in_4bit=True, selector=selector, learning_rate=1e-2, **extra)
    losses = [row["loss"] for row in rows(store, "SELECT avg(loss) AS loss FROM ledger GROUP BY step ORDER BY step")]
    assert losses[-1] < losses[0]
    assert all(value.isfinite().all() for value in weights(run).values())


def test_a_run_that_is_evaluated_as_it_goes_is_evaluated_before_it_begins(
    store: Store, pool: Artifact, tiny: str
) -> None:
    train(store, tiny, eval_pool="pool", eval_steps=3)
    found = rows(store, "SELECT step, value FROM metrics WHERE metric = 'eval_loss' ORDER BY step")
    assert [row["step"] for row in found] == [0, 3, 6]
    assert found[0]["value"] > found[-1]["value"]
