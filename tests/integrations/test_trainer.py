"""transformers.Trainer with a selector: it equals the plain Trainer if all samples are kept, and uses weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from curate.errors import ConfigError, DataError
from curate.integrations import Selective, SelectiveMixin, SelectiveTrainer
from curate.store import Store

COUNT = 48


def rows() -> list[dict[str, list[int]]]:
    """Return tokens of different lengths; the loss includes the second half of each."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(COUNT):
        length = int(torch.randint(6, 20, (), generator=generator))
        ids = torch.randint(4, 300, (length,), generator=generator).tolist()
        out.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return out


class Rows(Dataset[Any]):
    def __init__(self) -> None:
        self.rows = rows()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(rows())


def parts(tiny: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a Trainer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments

    values = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3,
        "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_steps": 1, "seed": 3,
    }  # fmt: skip
    return {
        "model": AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        "args": TrainingArguments(**{**values, **changes}),
        "train_dataset": datasets.Dataset.from_list(rows()),
        "data_collator": DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(tiny)),
    }


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("data", [None, Rows()])
def test_keeping_all_is_a_plain_trainer_bit_for_bit(tiny: str, tmp_path: Path, data: Any) -> None:
    from transformers import Trainer

    plain = Trainer(**{**parts(tiny, tmp_path / "out"), **({"train_dataset": data} if data else {})})
    plain.train()
    selection = Selective("full", max_length=64, store=tmp_path / "store", name="all")
    values = {**parts(tiny, tmp_path / "out"), **({"train_dataset": data} if data else {})}
    selective = SelectiveTrainer(**values, selection=selection)
    selective.train()
    assert all(torch.equal(value, weights(selective)[name]) for name, value in weights(plain).items())
    found = Store(tmp_path / "store").query("SELECT step, position, kept FROM ledger ORDER BY ALL").to_pylist()
    assert len(found) == 12 and all(row["kept"] for row in found)
    assert len({row["position"] for row in found}) == 12


class GradientsOfSteps:
    """A callback's place for the gradients of every step, before the optimizer's."""

    def __init__(self) -> None:
        from transformers import TrainerCallback

        seen: list[dict[str, torch.Tensor]] = []

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
                seen.append({name: p.grad.clone() for name, p in model.named_parameters()})

        self.seen, self.callback = seen, Look()


@pytest.mark.parametrize("selector", ["full", "max_loss"])
@pytest.mark.parametrize("as_dataset", [True, False])
def test_a_column_weight_is_the_weight_of_the_row(tiny: str, tmp_path: Path, selector: str, as_dataset: bool) -> None:
    given = [[1, 2, 0.5, None, 0, 3][n % 6] for n in range(COUNT)]
    data: Any = [row | {"weight": weight} for row, weight in zip(rows(), given, strict=True)]
    data = datasets.Dataset.from_list(data) if as_dataset else data
    store, look = Store(tmp_path / "store"), GradientsOfSteps()
    values = parts(tiny, tmp_path / "out", max_grad_norm=0.0, max_steps=1) | {"train_dataset": data}
    options = {} if selector == "full" else {"candidates": 12}
    trainer = SelectiveTrainer(**values, selection=Selective(selector, max_length=64, store=store, name="w", **options))
    trainer.add_callback(look.callback)
    before = weights(trainer)
    trainer.train()
    kept = store.query("SELECT position, sample_weight, weight FROM ledger WHERE kept ORDER BY slot").to_pylist()
    own = [1 if given[row["position"]] is None else given[row["position"]] for row in kept]
    assert [row["sample_weight"] for row in kept] == [None if weight == 1 else weight for weight in own]
    model, texts = trainer.model, rows()
    model.load_state_dict(before)
    model.zero_grad()
    chosen = [texts[row["position"]] for row in kept]
    counts = [sum(label != -100 for label in text["labels"]) for text in chosen]
    total = sum(weight * count for weight, count in zip(own, counts, strict=True))
    for text, weight, count in zip(chosen, own, counts, strict=True):
        loss = model(**{key: torch.tensor(value)[None] for key, value in text.items()}).loss
        (loss * weight * count / total).backward()
    (found,) = look.seen
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_weights_of_one_change_nothing_and_a_wrong_weight_is_an_error(tiny: str, tmp_path: Path) -> None:
    plain = SelectiveTrainer(**parts(tiny, tmp_path / "out"), selection=Selective("full", max_length=64))
    plain.train()
    data: list[Any] = [row | {"weight": None} for row in rows()]
    values = parts(tiny, tmp_path / "out") | {"train_dataset": data}
    ones = SelectiveTrainer(**values, selection=Selective("full", max_length=64))
    ones.train()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(ones)[name], value, rtol=1e-3, atol=1e-5)
    values["train_dataset"] = [row | {"weight": -1} for row in rows()]
    with pytest.raises(DataError, match=r"Row \d+: the weight in column 'weight' must be .* negative. Correct it"):
        SelectiveTrainer(**values, selection=Selective("full", max_length=64)).train()


def test_a_step_that_is_weighted_descends_the_weighted_losses(tiny: str, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    store = Store(tmp_path / "store")
    target = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows()[:4]]
    selection = Selective(
        "filter_weight", candidates=12, max_length=64, store=store, name="mine", target=target, target_batch_size=4,
        coverage="linear",
    )  # fmt: skip
    trainer = SelectiveTrainer(**parts(tiny, tmp_path / "out", max_grad_norm=0.0), selection=selection)
    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
            grads = {name: p.grad.clone() for name, p in model.named_parameters()}
            seen.append((grads, {name: p.detach().clone() for name, p in model.named_parameters()}))

    trainer.add_callback(Watch())
    trainer.train()
    kept = store.query("SELECT step, position, weight FROM ledger WHERE kept ORDER BY step, slot").to_pylist()
    model, data = trainer.model, rows()
    for step, (grads, before) in enumerate(seen, start=1):
        model.load_state_dict(before, strict=False)
        model.zero_grad()
        for row in (row for row in kept if row["step"] == step):
            text = {key: torch.tensor(value)[None] for key, value in data[row["position"]].items()}
            (model(**text).loss * row["weight"]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-3, atol=1e-6)
    uneven = [row["weight"] for row in kept if row["step"] == 1]
    assert len(uneven) > 1 and max(uneven) > 1.1 * min(uneven)


def test_stored_features_of_the_data_are_joined_by_row(tiny: str, tmp_path: Path) -> None:
    reference = [0.0] * COUNT
    reference[7] = -50.0
    store = Store(tmp_path / "store")
    selection = Selective(
        "rho", candidates=16, max_length=64, store=store, name="mine", features={"reference_loss": reference}
    )
    SelectiveTrainer(**parts(tiny, tmp_path / "out"), selection=selection).train()
    best = store.query("SELECT position, kept, score FROM ledger ORDER BY score DESC LIMIT 1").to_pylist()[0]
    assert best["position"] == 7 and best["kept"] and best["score"] > 50


def test_a_trainer_class_of_ones_own_becomes_selective(tiny: str, tmp_path: Path) -> None:
    from transformers import Trainer

    class Mine(Trainer):
        counted = 0

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            self.counted += 1
            return super().compute_loss(*args, **kwargs)

    class MineSelective(SelectiveMixin, Mine):
        pass

    trainer = MineSelective(
        **parts(tiny, tmp_path / "out"), selection=Selective("max_loss", candidates=8, max_length=64)
    )
    trainer.train()
    assert trainer.counted == 6 and trainer.batch_selector.step == 3


def test_an_epoch_is_a_pass_over_the_data_as_candidates(tiny: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    selection = Selective("random", candidates=20, max_length=64, store=store, name="mine")
    trainer = SelectiveTrainer(**parts(tiny, tmp_path / "out", max_steps=-1, num_train_epochs=2), selection=selection)
    trainer.train()
    sql = "SELECT step, count(*) AS candidates, sum(kept::INT)::INT AS kept FROM ledger GROUP BY step ORDER BY step"
    steps = [(row["candidates"], row["kept"]) for row in store.query(sql).to_pylist()]
    assert steps == [(20, 4), (20, 4), (8, 1)] * 2, "what is left of an epoch keeps its share"
    counts = store.query("SELECT position, count(*) AS n FROM ledger GROUP BY position").to_pylist()
    assert len(counts) == COUNT and {row["n"] for row in counts} == {2}


def test_training_again_is_another_run(tiny: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    trainer = SelectiveTrainer(
        **parts(tiny, tmp_path / "out"), selection=Selective("uds", 8, max_length=64, store=store, name="mine")
    )
    trainer.train()
    trainer.train()
    assert [artifact.config["attempt"] for artifact in store.artifacts()] == [1, 2]
    assert store.query("SELECT count(*) AS n FROM ledger WHERE run = 'mine'").to_pylist() == [{"n": 24}]


@pytest.mark.parametrize(
    ("change", "selection", "said"),
    [
        ({"train_dataset": Stream()}, Selective("random", 8, max_length=64), "train_dataset is a stream"),
        ({"train_dataset": None}, Selective("random", 8, max_length=64), "train_dataset is missing"),
        ({"train_dataset": [[1, 2]]}, Selective("random", 8, max_length=64), "rows of type list, not mappings"),
        ({}, Selective("random", 8), "Selective needs max_length"),
        ({}, Selective("rho", 8, max_length=64), "needs the stored feature 'reference_loss'"),
    ],
)
def test_what_cannot_work_is_refused(
    tiny: str, tmp_path: Path, change: dict[str, Any], selection: Selective, said: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        SelectiveTrainer(**{**parts(tiny, tmp_path / "out"), **change}, selection=selection).train()


def test_a_model_that_is_made_later_is_refused(tiny: str, tmp_path: Path) -> None:
    values = parts(tiny, tmp_path / "out")
    model = values.pop("model")
    with pytest.raises(ConfigError, match="model_init builds a new model"):
        SelectiveTrainer(**values, model_init=lambda: model, selection=Selective("uds", 8, max_length=64))


def test_a_collator_that_flattens_is_refused(tiny: str, tmp_path: Path) -> None:
    from transformers import DataCollatorWithFlattening

    values = {**parts(tiny, tmp_path / "out"), "data_collator": DataCollatorWithFlattening()}
    trainer = SelectiveTrainer(**values, selection=Selective("uds", 8, max_length=64))
    with pytest.raises(ConfigError, match="DataCollatorWithFlattening puts 8 samples into 1 rows"):
        trainer.train()
