"""Selection in a hand-written loop: it keeps the samples with the highest scores, and the store has all scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curate.api.commands.resuming import unfinished
from curate.api.commands.status import report
from curate.errors import ConfigError, DataError, ModelError, StoreError
from curate.integrations import BatchSelector
from curate.lm.tokens.batch import take_rows
from curate.store import Store

COUNT, LENGTH = 12, 20


def load(tiny: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


@pytest.fixture
def model(tiny: str) -> Any:
    return load(tiny)


def batch_of(step: int = 0, count: int = COUNT, *, left: bool = False) -> dict[str, Any]:
    """Return texts of different lengths, padded on the right (or left); the loss includes the second half of each."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(4, 300, (count, LENGTH), generator=generator)
    lengths = torch.randint(6, LENGTH + 1, (count, 1), generator=generator)
    places = torch.arange(LENGTH)
    mask = (places >= LENGTH - lengths) if left else (places < lengths)
    target = mask & ((places >= LENGTH - lengths // 2) if left else (places >= lengths // 2))
    return {
        "input_ids": ids.where(mask, 0),
        "attention_mask": mask.long(),
        "labels": ids.where(target, -100),
        "name": [f"s{row}" for row in range(count)],
        "kind": "toy",
    }


def losses_of(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Return the model's own loss of each text alone."""
    found = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True):
        with torch.no_grad():
            found.append(model(input_ids=ids[mask][None], labels=labels[mask][None]).loss)
    return torch.stack(found)


@pytest.mark.parametrize("left", [False, True])
def test_the_texts_of_highest_loss_are_kept_wherever_the_padding_is(model: Any, left: bool) -> None:
    batch = batch_of(left=left)
    kept = BatchSelector("max_loss", model, keep=3).choose(batch)
    wanted = losses_of(model, batch).topk(3).indices.sort().values
    assert kept.rows.tolist() == wanted.tolist()
    assert kept["name"] == [f"s{row}" for row in wanted] and kept["kind"] == "toy"
    lengths = batch["attention_mask"][wanted].sum(1)
    assert kept["input_ids"].shape == (3, lengths.max()) and torch.equal(kept["attention_mask"].sum(1), lengths)
    assert losses_of(model, kept).tolist() == pytest.approx(losses_of(model, batch)[wanted].tolist(), abs=1e-5)


def test_what_a_cut_takes_away_is_padding_alone() -> None:
    from curate.integrations.batch import take_rows as ours

    batch = {key: value for key, value in batch_of().items() if isinstance(value, Tensor)}
    rows = torch.tensor([1, 4, 9])
    for key, value in take_rows(batch, rows).items():
        assert torch.equal(ours(batch, rows)[key], value)
    assert ours(batch, torch.arange(COUNT))["input_ids"] is batch["input_ids"]


def train(model: Any, selector: BatchSelector, steps: range, optimizer: Any) -> list[list[int]]:
    kept_rows = []
    for step in steps:
        kept = selector.choose(batch_of(step), rows=range(step * 100, step * 100 + COUNT))
        loss = kept.loss(model(input_ids=kept["input_ids"], attention_mask=kept["attention_mask"]).logits)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        kept_rows.append(kept.rows.tolist())
    return kept_rows


def test_the_ledger_has_every_candidate_of_every_step_and_the_run_its_name(model: Any, store: Store) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with BatchSelector("uds", model, keep=3, store=store, name="mine", args={"memory": 8}) as selector:
        kept = train(model, selector, range(4), optimizer)
        assert "mine (script): a process is working on it" in "\n".join(report(store))
    rows = store.query("SELECT * FROM ledger ORDER BY step, slot").to_pylist()
    assert len(rows) == 4 * COUNT and {row["run"] for row in rows} == {"mine"}
    for step in range(4):
        own = rows[step * COUNT : (step + 1) * COUNT]
        assert [row["slot"] for row in own if row["kept"]] == kept[step]
        assert [row["position"] for row in own] == list(range(step * 100, step * 100 + COUNT))
        assert [row["tokens"] for row in own] == batch_of(step)["attention_mask"].sum(1).tolist()
        assert all(dict(row["parts"]).keys() == {"utility", "diversity"} and row["loss"] > 0 for row in own)
    held = store.query("SELECT sample_id, step FROM memory WHERE run = 'mine' ORDER BY ALL").to_pylist()
    last = [{"sample_id": row["sample_id"], "step": row["step"]} for row in rows if row["kept"]][-8:]
    assert held == sorted(last, key=lambda row: (row["sample_id"], row["step"])), "the memory is of the last 8"
    run = store.get("mine")
    assert "Stale" not in "\n".join(report(store))
    assert run.rows == 12 and run.summary["kept"] == "12 of 48 candidates" and not store.drafts()


def test_the_same_text_is_called_the_same_in_every_batch(model: Any, store: Store) -> None:
    one, other = batch_of(), batch_of(left=True)
    moved = {key: other[key] for key in ("input_ids", "attention_mask", "labels")}
    with BatchSelector("random", model, keep=3, store=store, name="mine") as selector:
        selector.choose(one)
        selector.choose({key: value.flip(0) for key, value in moved.items()})
        selector.choose(one, ids=[f"text {row}" for row in range(COUNT)])
    ids = [row["sample_id"] for row in store.query("SELECT sample_id FROM ledger ORDER BY step, slot").to_pylist()]
    assert len(set(ids[:COUNT])) == COUNT and ids[COUNT - 1] != ids[COUNT]
    assert ids[2 * COUNT] == "text 0"


def test_a_loop_that_resumes_from_a_checkpoint_chooses_as_one_that_was_not_stopped(
    tiny: str, store: Store, tmp_path: Path
) -> None:
    def begin(where: Store) -> tuple[Any, Any, BatchSelector]:
        model = load(tiny)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return model, optimizer, BatchSelector("uds", model, keep=3, store=where, name="mine", args={"memory": 8})

    model, optimizer, selector = begin(store)
    with selector:
        whole = train(model, selector, range(6), optimizer)

    other = Store(tmp_path / "other")
    model, optimizer, selector = begin(other)
    with pytest.raises(KeyboardInterrupt), selector:
        begun = train(model, selector, range(3), optimizer)
        torch.save([thing.state_dict() for thing in (model, optimizer, selector)], tmp_path / "checkpoint")
        train(model, selector, range(3, 5), optimizer)
        raise KeyboardInterrupt
    assert "mine (script): resume it with the script that started it" in "\n".join(report(other))
    with pytest.raises(StoreError, match="was started by a script"):
        unfinished(other, "mine")
    assert len(other.drafts()) == 1 and not other.has("mine")

    model, optimizer, selector = begin(other)
    for thing, state in zip((model, optimizer, selector), torch.load(tmp_path / "checkpoint"), strict=True):
        thing.load_state_dict(state)
    with selector:
        assert begun + train(model, selector, range(3, 6), optimizer) == whole
    sql = "SELECT * FROM ledger ORDER BY ALL"
    assert other.query(sql).equals(store.query(sql))
    assert other.get("mine").summary == store.get("mine").summary


def test_a_loop_that_is_started_again_is_another_run_and_takes_the_name(model: Any, store: Store) -> None:
    for step in (1, 2):
        with BatchSelector("random", model, keep=3, store=store, name="mine") as selector:
            selector.choose(batch_of(step))
    assert len(store.artifacts()) == 2
    assert store.get("mine").config["attempt"] == 2


def test_a_run_that_goes_on_after_its_end_is_a_new_one_that_begins_there(
    model: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with BatchSelector("random", model, keep=3, store=store, name="mine") as selector:
        selector.choose(batch_of(1))
        state = selector.state_dict()
    later = BatchSelector("random", model, keep=3, store=store, name="mine")
    later.load_state_dict(state)
    with later:
        later.choose(batch_of(2))
    assert "has ended. From step 2 on this is a new run" in caplog.text
    found = store.query("SELECT step, count(*) AS n FROM ledger WHERE run = 'mine' GROUP BY step").to_pylist()
    assert found == [{"step": 2, "n": COUNT}]


def test_nothing_is_written_without_a_store(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with BatchSelector("max_loss", model, keep=3) as selector:
        assert len(selector.choose(batch_of()).rows) == 3
    assert not list(tmp_path.iterdir())


def test_a_smaller_batch_keeps_its_share_if_the_size_of_a_full_one_is_given(model: Any) -> None:
    selector = BatchSelector("max_loss", model, keep=4)
    assert len(selector.choose(batch_of(count=6)).rows) == 4
    assert len(selector.choose(batch_of(count=6), candidates=12).rows) == 2
    assert len(selector.choose(batch_of(count=2)).rows) == 2


def test_gradient_selectors_look_at_gradients_and_leave_none_behind(model: Any) -> None:
    target = [{"input_ids": list(range(4, 12)), "labels": list(range(4, 12))}]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    options: dict[str, Any] = {"target": target, "target_batch_size": 1, "coverage": "linear", "optimizer": optimizer}
    selector = BatchSelector("greats", model, keep=3, args={"interaction": 0.0}, **options)
    batch = batch_of()
    kept = selector.choose(batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]

    def gradient(ids: Tensor, labels: Tensor) -> Tensor:
        loss = model(input_ids=ids[None], labels=labels[None]).loss
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, layers)])

    wanted = gradient(torch.tensor(target[0]["input_ids"]), torch.tensor(target[0]["labels"]))
    masks = batch["attention_mask"].bool()
    own = [gradient(batch["input_ids"][i][masks[i]], batch["labels"][i][masks[i]]) for i in range(COUNT)]
    alignment = torch.stack([g @ wanted for g in own])
    assert kept.rows.tolist() == alignment.topk(3).indices.sort().values.tolist()


def test_a_selector_that_weights_needs_a_loop_that_trains_on_the_weights(model: Any) -> None:
    target = [{"input_ids": list(range(4, 12)), "labels": list(range(4, 12))}]
    options: dict[str, Any] = {"target": target, "target_batch_size": 1, "coverage": "linear"}
    options["optimizer"] = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"kept\.loss\(logits\).*weighted=True"):
        BatchSelector("filter_weight", model, keep=3, **options).choose(batch_of())
    kept = BatchSelector("filter_weight", model, keep=3, weighted=True, **options).choose(batch_of())
    assert kept.weights is not None and float(kept.weights.sum()) == pytest.approx(1)
    logits = model(input_ids=kept["input_ids"], attention_mask=kept["attention_mask"]).logits
    assert kept.loss(logits).item() == pytest.approx(float(losses_of(model, kept) @ kept.weights.float()), rel=1e-4)


def test_an_entry_weight_counts_a_text_so_often(model: Any) -> None:
    batch = batch_of()
    batch["weight"] = torch.tensor([2.0, 0.5, 0.0] * (COUNT // 3) + [1.0] * (COUNT % 3))
    with pytest.raises(ConfigError, match=r"The batch weights .* kept\.loss\(logits\).*weighted=True"):
        BatchSelector("max_loss", model, keep=3).choose(batch)
    kept = BatchSelector("max_loss", model, keep=3, weighted=True).choose(batch)
    assert "weight" not in kept, "so that model(**kept) accepts it"
    own = batch["weight"][kept.rows] * (kept["labels"][:, 1:] != -100).sum(1)
    logits = model(**{key: value for key, value in kept.items() if key != "labels"}).logits
    expected = (losses_of(model, kept) * own).sum() / own.sum()
    assert kept.loss(logits).item() == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(DataError, match="one number for each of its"):
        BatchSelector("max_loss", model, keep=3, weighted=True).choose(batch | {"weight": torch.ones(2)})
    with pytest.raises(DataError, match="Row 0: the weight"):
        BatchSelector("max_loss", model, keep=3, weighted=True).choose(batch | {"weight": -torch.ones(COUNT)})


def test_stored_features_of_the_samples_are_joined(model: Any) -> None:
    batch = batch_of()
    reference = losses_of(model, batch)
    reference[[2, 5]] -= 9
    kept = BatchSelector("rho", model, keep=2).choose(batch, features={"reference_loss": reference.tolist()})
    assert kept.rows.tolist() == [2, 5]


class Wrapped(nn.Module):
    """A module around a model, as Lightning Fabric and DDP make it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_a_wrapped_model_is_looked_into(model: Any) -> None:
    wrapped = BatchSelector("uds", Wrapped(Wrapped(model)), keep=3).choose(batch_of())
    assert wrapped.rows.tolist() == BatchSelector("uds", model, keep=3).choose(batch_of()).rows.tolist()


@pytest.mark.parametrize(
    ("selector", "options", "said"),
    [
        ("udz", {}, "There is no selector 'udz'. Did you mean 'uds'"),
        ("uds", {"args": {"alfa": 1}}, "Did you mean 'alpha'"),
        ("greats", {}, "Selector greats needs target="),
        ("max_grad", {"args": {"approximation": "parameters"}}, "Give optimizer=, such as AdamW"),
        ("random", {"store": "store"}, "A run in a store needs a name"),
        ("random", {"keep": 0}, "keep must be at least 1, not 0"),
        ("random", {"store": "store", "name": "a/b"}, "name: A name has only letters"),
    ],
)
def test_what_cannot_work_is_refused_at_once(model: Any, selector: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BatchSelector(selector, model, **{"keep": 3, **options})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, "The batch has no tensor labels"),
        ({"attention_mask": None, "position_ids": torch.arange(5)}, "several texts in one row"),
        ({"input_ids": torch.zeros(2, 3, dtype=torch.int64)}, r"the same shape \(B, L\)"),
        ({"attention_mask": torch.zeros(COUNT, LENGTH)}, "has no tokens"),
    ],
)
def test_a_batch_that_is_none_is_refused(model: Any, change: dict[str, Any], said: str) -> None:
    batch = {key: value for key, value in {**batch_of(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=said):
        BatchSelector("max_loss", model, keep=3).choose(batch)


def test_other_refusals_say_what_to_do(model: Any) -> None:
    with pytest.raises(ConfigError, match="Raise max_length, or truncate"):
        BatchSelector("uds", model, keep=3, max_length=5).choose(batch_of())
    with pytest.raises(ConfigError, match="needs the stored feature 'reference_loss'"):
        BatchSelector("rho", model, keep=3).choose(batch_of())
    with pytest.raises(ModelError, match="not a causal language model"):
        BatchSelector("uds", nn.Linear(3, 3), keep=3)
    selector = BatchSelector("random", model, keep=3)
    with pytest.raises(DataError, match="12 texts, but 2 ids"):
        selector.choose(batch_of(), ids=["a", "b"])
    selector.choose(batch_of())
    with pytest.raises(ConfigError, match="before the first choose: this run"):
        selector.load_state_dict({})
    model.lm_head.weight.ds_id = 1  # what DeepSpeed ZeRO-3 marks its parameters with
    with pytest.raises(ModelError, match="Use DDP, or curate train --fsdp"):
        BatchSelector("uds", model, keep=3)
