"""Runs whose selector looks at gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from curate import Artifact, make
from curate.errors import ConfigError, ModelError
from curate.selectors import SELECTORS, CandidateBatch, GradientNeeds, Scores, Selector
from curate.store import Store
from tests.support.training import interrupted_at, rows, weights

SMALL = {"candidates": 8, "keep": 4, "max_steps": 5, "max_length": 64, "logging_steps": 1, "save_steps": 2}
SMALL |= {"learning_rate": 3e-3, "target_batch_size": 4}


@pytest.fixture
def pools(store: Store, pool_file: Path) -> Store:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    make(store, "ingest", name="target", data=[str(pool_file)], deduplicate=True)
    return store


def train(store: Store, tiny: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=tiny, **{**SMALL, **values})


@pytest.mark.parametrize("selector", ["greats", "opus", "filter_weight", "max_grad"])
def test_reusing_the_candidates_gradients_is_the_same_update_as_a_second_pass(
    pools: Store, tiny: str, selector: str
) -> None:
    args = {"filter_weight": {"warmup_steps": 2}, "max_grad": {"approximation": "parameters"}}.get(selector, {})
    shape = {"selector": selector, "selector_args": args, "target": "target", "per_device_train_batch_size": 2}
    reuse = train(pools, tiny, "reuse", update="reuse", **shape)
    rerun = train(pools, tiny, "rerun", update="rerun", **shape)
    assert reuse.fingerprint != rerun.fingerprint
    for name, value in weights(reuse).items():
        torch.testing.assert_close(value, weights(rerun)[name], rtol=1e-3, atol=2e-5)
    kept = [
        rows(pools, f"SELECT step, slot FROM ledger WHERE run = '{n}' AND kept ORDER BY ALL")
        for n in ("reuse", "rerun")
    ]
    assert kept[0] == kept[1]
    losses = [
        [r["value"] for r in rows(pools, f"SELECT value FROM metrics WHERE run='{n}' AND metric='loss' ORDER BY step")]
        for n in ("reuse", "rerun")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_filter_weight_writes_weights_and_what_it_saw(pools: Store, tiny: str) -> None:
    train(pools, tiny, selector="filter_weight", selector_args={"warmup_steps": 1}, target="target")
    kept = rows(pools, "SELECT step, weight, parts FROM ledger WHERE kept ORDER BY step, slot")
    for step in range(1, 6):
        own = [row for row in kept if row["step"] == step]
        assert sum(row["weight"] for row in own) == pytest.approx(1)
        for row in own:
            parts = dict(row["parts"])
            assert parts["ess"] == pytest.approx(1 / sum(r["weight"] ** 2 for r in own))
            assert 0 < parts["cosine"] <= 1 + 1e-6 and parts["alignment"] > 0
    assert rows(pools, "SELECT count(*) n FROM ledger WHERE parts['alignment'] IS NULL") == [{"n": 0}]


class All(Selector):
    """Selector that measures gradients and keeps all candidates, without weights."""

    gradients = GradientNeeds(gram=True)

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(torch.zeros(len(batch), dtype=torch.float64))


def test_keeping_all_by_gradients_is_plain_training_bit_for_bit(
    pools: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SELECTORS, "all", All)
    shape = {"candidates": 4, "keep": 4, "per_device_train_batch_size": 4, "lora_dropout": 0.1}
    kept = train(pools, tiny, "kept", selector="all", update="rerun", **shape)
    plain = train(pools, tiny, "plain", selector="full", **shape)
    assert all(torch.equal(value, weights(kept)[name]) for name, value in weights(plain).items())


def test_an_interrupted_run_by_gradients_ends_as_one_that_was_not(pools: Store, tiny: str, tmp_path: Path) -> None:

    shape = {"selector": "filter_weight", "selector_args": {"warmup_steps": 1}, "target": "target", "lora_dropout": 0.2}
    whole = train(pools, tiny, **shape)
    other = Store(tmp_path / "other")
    for name in ("pool", "target"):
        config = pools.get(name).config
        make(other, "ingest", name=name, data=config["data"], deduplicate=config["deduplicate"])
    with interrupted_at(4):
        train(other, tiny, **shape)
    resumed = train(other, tiny, **shape)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    sql = "SELECT * FROM ledger ORDER BY ALL"
    assert other.query(sql).equals(pools.query(sql))


@pytest.mark.parametrize(
    ("optim", "package", "selector"),
    [
        ("adafactor", "torch", {"selector": "filter_weight", "selector_args": {"warmup_steps": 1}}),
        ("stable_adamw", "optimi", {"selector": "filter_weight", "selector_args": {"warmup_steps": 1}}),
        ("muon", "torch", {"selector": "opus"}),
    ],
)
def test_a_run_with_another_optimizer_selects_and_resumes(
    pools: Store, tiny: str, tmp_path: Path, optim: str, package: str, selector: dict[str, Any]
) -> None:
    pytest.importorskip(package)
    shape = {**selector, "target": "target", "optim": optim, "warmup_steps": 2}
    whole = train(pools, tiny, **shape)
    kept = rows(pools, "SELECT step, parts['zero_rate'] z, parts['fallback'] f FROM ledger WHERE kept ORDER BY ALL")
    assert {row["step"] for row in kept if row["z"]} == {1} and not any(row["f"] for row in kept)
    other = Store(tmp_path / "other")
    for name in ("pool", "target"):
        make(other, "ingest", name=name, data=pools.get(name).config["data"], deduplicate=name == "target")
    with interrupted_at(3):
        train(other, tiny, **shape)
    again = train(other, tiny, **shape)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_an_optimizer_that_cannot_be_used_is_refused_before_a_model_is_loaded(pools: Store) -> None:
    shape = {"selector": "filter_weight", "target": "target"}
    for optim, selector, said in (
        ("lomo", "uds", "Training with --optim lomo is not possible: it updates the weights in the backward pass"),
        ("adamw", "uds", "Training with --optim adamw is not possible. Did you mean"),
        ("schedule_free_adamw", "uds", "averages weights"),
        ("sgd", "opus", "opus has a metric for Adam, AdamW and Muon only"),
        ("lion_8bit", "filter_weight", "needs the package bitsandbytes|lion_8bit has no metric .* a sign"),
    ):
        with pytest.raises((ConfigError, ModelError), match=said):
            train(pools, "no-model", **{**shape, "selector": selector, "optim": optim})


def test_muon_steps_are_those_of_torch_and_norms_are_refused(pools: Store, tiny: str) -> None:
    with pytest.raises(ConfigError, match="--optim muon trains matrices only, and --full trains norms"):
        train(pools, tiny, selector="full", optim="muon", full=True)
    ours = weights(train(pools, tiny, "muon", selector="full", optim="muon", max_steps=1, max_grad_norm=0))
    plain = weights(train(pools, tiny, "adamw", selector="full", max_steps=1, max_grad_norm=0))
    for name, value in ours.items():
        if "lora_B" in name:  # lora_A has no gradient while B is 0
            # A first step of AdamW is the rate in each entry. One of Muon has singular values between 0.7 and 1.2
            # times 0.2 √max(rows, columns), and less where the gradient has a lower rank.
            assert 0.05 < float(value.norm() / plain[name].norm()) < 0.25, name


def test_full_fine_tuning_selects_by_all_weights_or_by_those_of_linear_layers(pools: Store, tiny: str) -> None:
    shape = {"selector": "greats", "target": "target", "full": True}
    assert train(pools, tiny, **shape).rows == 20
    linear = train(pools, tiny, gradient_coverage="linear", **shape)
    assert linear.rows == 20
    left_out = linear.summary["weights not measured"]
    assert "model.embed_tokens.weight, model.layers.*.input_layernorm.weight (2)" in left_out
    card = (make(pools, "export", name="kept", run="run").files / "README.md").read_text()
    assert "Trained weights that the selection did not measure: model.embed" in card
    with pytest.raises(ModelError, match=r"without an update.*embed_tokens\.weight.*--update rerun"):
        train(pools, tiny, gradient_coverage="linear", update="reuse", **shape)


def test_reuse_trains_every_weight_as_rerun_does(pools: Store, tiny: str) -> None:
    shape = {"selector": "greats", "target": "target", "full": True, "max_steps": 1, "bf16": False}
    reused, again = (weights(train(pools, tiny, update=update, **shape)) for update in ("reuse", "rerun"))
    assert set(reused) == set(again)
    began = load_file(f"{tiny}/model.safetensors")
    for name, value in again.items():
        step = value - began[name]
        assert step.norm() > 0, name
        assert (reused[name] - value).norm() < 1e-3 * step.norm(), name  # Adam's first step magnifies rounding of zeros


def test_rho_joins_the_reference_losses_and_raises_for_another_tokenization(pools: Store, tiny: str) -> None:
    make(pools, "embed", name="ref", pool="pool", model=tiny, max_length=64, signals=["loss"])
    train(pools, tiny, selector="rho", reference="ref", max_steps=1)
    odd = """SELECT count(*) n FROM ledger l JOIN features f USING (sample_id)
             WHERE abs(l.parts['reference_loss'] - f.loss) > 1e-6 OR abs(l.score - (l.loss - f.loss)) > 1e-6"""
    assert rows(pools, odd) == [{"n": 0}]
    assert rows(pools, "SELECT count(utility) + count(sketch_norm) n FROM features") == [{"n": 0}]
    make(pools, "embed", name="other", pool="pool", model=tiny, max_length=32, signals=["loss"])
    with pytest.raises(ConfigError, match="another tokenizer, chat template, --date, --max-length"):
        train(pools, tiny, selector="rho", reference="other")
    with pytest.raises(ConfigError, match="needs --reference NAME"):
        train(pools, tiny, selector="rho")


@pytest.mark.parametrize("selector", ["greats", "opus", "filter_weight"])
def test_a_missing_target_is_an_error(pools: Store, tiny: str, selector: str) -> None:
    with pytest.raises(ConfigError, match=f"{selector} needs --target POOL"):
        train(pools, tiny, selector=selector)
    with pytest.raises(ConfigError, match="leave --scope at global"):
        train(pools, tiny, selector=selector, target="target", scope="micro:4")
