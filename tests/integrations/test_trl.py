"""TRL's trainer with a selector: it is TRL's own training if all samples are kept, and always a run in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from curate import make
from curate.api.commands.status import stale_inputs
from curate.errors import ArtifactNotFound, ConfigError, DataError, TrainingError
from curate.integrations.kept_row import SEGMENTS, by_text, in_one_row, kept_rows
from curate.integrations.trl import Selective, SelectiveSFTTrainer
from curate.lm.model.scoring_model import make_scoring_model
from curate.store import Store
from tests.support.reports import page_content

ROWS = [{"prompt": f"Add {n} and {n * 7 % 13}.", "completion": f"{n + n * 7 % 13} " * (1 + n % 5)} for n in range(48)]


def chats() -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"]},
                ]
            }
            for row in ROWS
        ]
    )


def pairs() -> datasets.Dataset:
    return datasets.Dataset.from_list(ROWS)


def arguments(folder: Path, **changes: Any) -> Any:
    from trl import SFTConfig

    values = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4,
        "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_length": 64,
        "bf16": False, "save_strategy": "no", "logging_steps": 1, "seed": 3,
    }  # fmt: skip
    return SFTConfig(**{**values, **changes})


def trainer_of(tiny: str, folder: Path, selection: Selective | None, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    data, args = options.pop("train_dataset", None), options.pop("arguments", {})
    shared = {
        "model": AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        "args": arguments(folder, **args),
        "train_dataset": chats() if data is None else data,
        "processing_class": AutoTokenizer.from_pretrained(tiny),
        **options,
    }
    return SFTTrainer(**shared) if selection is None else SelectiveSFTTrainer(**shared, selection=selection)


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear")


def lora_exact() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear")


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def history(trainer: Any) -> list[tuple[float, ...]]:
    return [(entry["loss"], entry["grad_norm"], entry["num_tokens"]) for entry in trainer.state.log_history[:-1]]


@pytest.mark.parametrize("adapter", [False, True])
def test_keeping_all_is_trls_own_training_bit_for_bit(tiny: str, tmp_path: Path, adapter: bool) -> None:
    trained = []
    for selection in (None, Selective("full", store=tmp_path / "store", name="all")):
        options = {"peft_config": lora()} if adapter else {}
        trained.append(trainer_of(tiny, tmp_path / "out", selection, **options))
        trained[-1].train()
    plain, selective = trained
    assert history(selective) == history(plain)
    assert all(torch.equal(value, weights(selective)[name]) for name, value in weights(plain).items())


@pytest.mark.parametrize(("data", "shape"), [(chats, {"assistant_only_loss": True}), (pairs, {})])
def test_every_step_trains_on_the_best_of_its_candidates_and_the_ledger_knows_them_all(
    tiny: str, tmp_path: Path, data: Any, shape: dict[str, Any]
) -> None:
    store = Store(tmp_path / "store")
    selection = Selective("max_loss", candidates=16, store=store, name="mine")
    trainer = trainer_of(tiny, tmp_path / "out", selection, train_dataset=data(), arguments=shape)
    seen: list[list[int]] = []
    step = trainer.compute_loss

    def watching(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["labels"].ne(-100)[:, 1:].sum(1).tolist())
        return step(model, inputs, *args, **kwargs)

    trainer.compute_loss = watching
    trainer.train()
    rows = store.query("SELECT * FROM ledger WHERE run = 'mine' ORDER BY step, slot").to_pylist()
    assert [sum(row["step"] == n for row in rows) for n in (1, 2, 3)] == [16, 16, 16]
    for number in range(1, 5):
        own = [row for row in rows if row["step"] == number]
        best = sorted(own, key=lambda row: -row["loss"])[:4]
        assert {row["slot"] for row in own if row["kept"]} == {row["slot"] for row in best}
        trained_on = [count for batch in seen[2 * number - 2 : 2 * number] for count in batch]
        assert trained_on == [row["target_tokens"] for row in own if row["kept"]]
    assert {row["position"] for row in rows if row["step"] <= 3} == set(range(48)), "an epoch is a pass over the data"
    logged = store.query("SELECT value FROM metrics WHERE run = 'mine' AND metric = 'loss' ORDER BY step").to_pylist()
    assert [row["value"] for row in logged] == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_samples_are_called_as_ingest_calls_them(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    make(store, "ingest", name="pool", data="pool.jsonl")
    selection = Selective("random", candidates=8, store=store, name="mine")
    data = pairs().shuffle(seed=1).add_column("domain", ["math"] * 48)
    trainer_of(tiny, tmp_path / "out", selection, train_dataset=data, arguments={"shuffle_dataset": True}).train()
    rows = store.query(
        "SELECT l.position, messages[1].content AS asked FROM ledger l JOIN conversations c USING (sample_id)"
    ).to_pylist()
    assert len(rows) == 32
    assert [data[row["position"]]["prompt"] for row in rows] == [row["asked"] for row in rows]


def with_pool(folder: Path) -> Store:
    """Return a store with a pool of `ROWS` in reverse order, and a pool of their first half."""
    store = Store("store")
    for name, rows in (("pool", ROWS[::-1]), ("half", ROWS[:24])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({**row, "n": n % 3}) + "\n" for n, row in enumerate(rows)))
        make(store, "ingest", name=name, data=f"{name}.jsonl")
    return store


def test_a_run_over_a_pool_is_asked_exported_ordered_and_shown_as_any_other(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = with_pool(tmp_path)
    selection = Selective("max_loss", candidates=8, store=store, name="mine", pool="pool")
    trainer_of(tiny, tmp_path / "out", selection, train_dataset=pairs()).train()
    kept = store.query("SELECT sample_id, position FROM ledger WHERE kept ORDER BY step, slot").to_pylist()
    rows = [ROWS[::-1][row["position"]] for row in kept]
    make(store, "export", run="mine", name="kept", format="prompt-completion")
    assert [row["prompt"] for row in datasets.load_from_disk("exports/kept")] == [row["prompt"] for row in rows]
    assert "max_loss" in Path("exports/kept/README.md").read_text()
    course = make(store, "curriculum", runs=["mine"], order="most_kept", name="course")
    assert set(course.table()["sample_id"].to_pylist()) == set(store.query("FROM ledger")["sample_id"].to_pylist())
    make(store, "train", pool="pool", subset="course", model=tiny, selector="random", candidates=4, keep=2,
         max_steps=1, max_length=64, name="next")  # fmt: skip
    told_of = page_content(store, "mine", "next", by=("n",))
    assert [run["name"] for run in told_of["runs"]] == ["mine", "next"] and told_of["runs"][0]["selector"] == "max_loss"
    shares = {row["by"]: dict(zip(row["labels"], row["kept"][0], strict=True)) for row in told_of["groups"]}["n"]
    assert shares == {str(n): sum(row["position"] % 3 == n for row in kept) / 16 for n in range(3)}
    assert list(stale_inputs(store, store.get("mine"))) == []


def test_a_run_over_no_pool_is_exported_from_the_one_that_is_named(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = with_pool(tmp_path)
    trainer_of(tiny, tmp_path / "out", Selective("random", candidates=8, store=store, name="mine"),
               train_dataset=pairs()).train()  # fmt: skip
    for stage, options in (("export", {"run": "mine"}), ("curriculum", {"runs": ["mine"], "order": "most_kept"})):
        with pytest.raises(ArtifactNotFound, match=r"several pools \(half, pool\): give --pool"):
            make(store, stage, name="out", **options)
        assert make(store, stage, name="out", pool="pool", **options).rows
    with pytest.raises(DataError, match=r"of 16 sample_ids are not in the pool 'half'"):
        make(store, "export", run="mine", pool="half", name="again")
    with pytest.raises(DataError, match=r"A script made the run 'mine' without a pool"):
        page_content(store, "mine")


def test_data_that_is_not_in_the_pool_that_is_named_is_refused(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = with_pool(tmp_path)
    with pytest.raises(ArtifactNotFound, match=r"nothing named 'pol'.*Did you mean 'pool'"):
        trainer_of(tiny, tmp_path / "out", Selective("random", candidates=8, store=store, name="mine", pool="pol"))
    with pytest.raises(ConfigError, match="pool='pool' is a name in a store"):
        trainer_of(tiny, tmp_path / "out", Selective("random", candidates=8, pool="pool"))
    selection = Selective("random", candidates=48, store=store, name="mine", pool="half")
    with pytest.raises(DataError, match="24 of 48 candidates are not in the pool 'half'"):
        trainer_of(tiny, tmp_path / "out", selection, train_dataset=pairs()).train()


def test_a_resumed_run_is_one_that_was_not_stopped(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    runs = {}
    for name in ("whole", "stopped"):
        store = Store(tmp_path / name)
        selection = Selective("uds", candidates=12, store=store, name="mine", args={"memory": 8})
        options = {"peft_config": lora(), "arguments": shape}
        trainer = trainer_of(tiny, tmp_path / name / "out", selection, **options)
        if name == "stopped":
            pick = trainer.batch_selector.pick

            def stop_at_5(*args: Any, trainer: Any = trainer, pick: Any = pick) -> Any:
                if trainer.state.global_step == 4:
                    raise KeyboardInterrupt
                return pick(*args)

            trainer.batch_selector.pick = stop_at_5
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
            assert len(store.drafts()) == 1
            trainer = trainer_of(tiny, tmp_path / name / "out", selection, **options)
            trainer.train(resume_from_checkpoint=str(tmp_path / name / "out" / "checkpoint-2"))
        else:
            trainer.train()
        runs[name] = (trainer, store)
    whole, stopped = runs["whole"], runs["stopped"]
    assert all(torch.equal(value, weights(stopped[0])[name]) for name, value in weights(whole[0]).items())
    for table in ("ledger", "memory"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert stopped[1].query(sql).equals(whole[1].query(sql)) and whole[1].query(sql).num_rows
    assert stopped[1].get("mine").summary == whole[1].get("mine").summary
    marker = tmp_path / "whole" / "out" / "checkpoint-4" / "curate.json"
    marker.unlink()
    with pytest.raises(TrainingError, match=r"has no curate\.json"):
        whole[0].train(resume_from_checkpoint=str(marker.parent))


@pytest.mark.parametrize("selector", ["greats", "filter_weight"])
def test_gradient_selectors_choose_in_trl(tiny: str, tmp_path: Path, selector: str) -> None:
    store = Store(tmp_path / "store")
    target = [{"input_ids": list(range(4, 12)), "labels": list(range(4, 12))}]
    selection = Selective(selector, candidates=8, store=store, name="mine", target=target, target_batch_size=1)
    trainer = trainer_of(tiny, tmp_path / "out", selection, peft_config=lora(), arguments={"max_steps": 3})
    trainer.train()
    rows = store.query("SELECT * FROM ledger ORDER BY step, slot").to_pylist()
    kept = [[row for row in rows if row["kept"] and row["step"] == step] for step in (1, 2, 3)]
    assert all("alignment" in dict(row["parts"]) for row in rows) and len(rows) == 24
    if selector == "greats":
        assert [len(own) for own in kept] == [4, 4, 4]
    else:
        assert all(1 <= len(own) <= 4 and sum(row["weight"] for row in own) == pytest.approx(1) for own in kept)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        (
            {"packing": True},
            {},
            r"packing=True does not .* packing=False and give Selective\(\.\.\., batching=.packed.\)",
        ),
        ({"padding_free": True}, {}, "padding_free=True does not work with a selector"),
        ({"auto_find_batch_size": True}, {}, "auto_find_batch_size=True does not work"),
        ({}, {"candidates": 6}, "candidates=6 is not a multiple of the 4 samples"),
        ({}, {"candidates": None}, "needs candidates: the number of samples to select 4 from"),
        ({}, {"selector": "full", "candidates": 8}, "Selector full keeps all candidates"),
        ({}, {"selector": "udz"}, "Did you mean 'uds'"),
        ({}, {"selector": "greats"}, "Selector greats needs target="),
        ({"max_length": None}, {}, "Selective needs max_length"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    tiny: str, tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    selection = Selective(**{"selector": "uds", "candidates": 8, **options})
    with pytest.raises(ConfigError, match=said):
        trainer_of(tiny, tmp_path / "out", selection, arguments=changes)


@pytest.mark.parametrize("selector", ["full", "max_loss", "filter_weight"])
def test_kept_samples_in_one_row_train_as_padded_ones_do(tiny: str, tmp_path: Path, selector: str) -> None:
    """`filter_weight` weights what it keeps, so the losses of a row are divided among its texts again."""
    target = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}]
    trained = {}
    for batching in ("padded", "packed"):
        selection = Selective(
            selector, candidates=4 if selector == "full" else 8, batching=batching, target=target, target_batch_size=1
        )  # type: ignore[arg-type]
        config = {"max_steps": 3, "learning_rate": 1e-4, "gradient_checkpointing": selector == "max_loss"}
        trained[batching] = trainer_of(tiny, tmp_path / "out", selection, arguments=config, peft_config=lora_exact())
        shapes: list[tuple[int, ...]] = []
        step = trained[batching].compute_loss

        def watching(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            shapes.append(tuple(inputs["input_ids"].shape))  # noqa: B023
            return step(model, inputs, *args, **kwargs)  # noqa: B023

        trained[batching].compute_loss = watching
        trained[batching].train()
        assert (max(shape[0] for shape in shapes) == 1) == (batching == "packed")
    logs = {name: each.state.log_history[:-1] for name, each in trained.items()}
    for packed, padded in zip(logs["packed"], logs["padded"], strict=True):
        assert packed.get("num_tokens") == padded.get("num_tokens")
        for value in ("loss", "grad_norm"):
            assert packed[value] == pytest.approx(padded[value], rel=2e-5)
    off = [(value - weights(trained["packed"])[name]).norm() for name, value in weights(trained["padded"]).items()]
    assert sum(off) < 1e-4 * sum(value.norm() for value in weights(trained["padded"]).values())
    configs = {
        module.config._attn_implementation for module in trained["packed"].model.modules() if hasattr(module, "config")
    }
    assert configs == {"sdpa"}


def test_a_model_that_mixes_texts_of_a_row_is_refused_before_the_first_step(tiny: str, tmp_path: Path) -> None:
    from tests.support.families import family

    with pytest.raises(ConfigError, match=r"MambaForCausalLM cannot keep the texts .* Leave out batching='packed'"):
        kept_rows("packed", make_scoring_model(family("mamba")), 40)
    with pytest.raises(ConfigError, match="batching must be 'padded' or 'packed', not 'sorted'"):
        trainer_of(tiny, tmp_path, Selective("random", candidates=8, batching="sorted"))  # type: ignore[arg-type]


def test_a_row_holds_the_real_tokens_of_texts_padded_on_either_side() -> None:
    batch = {
        "input_ids": torch.tensor([[0, 0, 4, 5], [6, 7, 8, 0]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, -100, 4, 5], [6, 7, 8, -100]]),
    }
    row = in_one_row(batch)
    assert row["input_ids"].tolist() == [[4, 5, 6, 7, 8]] and row["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert row["labels"].tolist() == [[-100, 5, -100, 7, 8]]
    assert by_text(row["labels"], row[SEGMENTS]).tolist() == [[-100, 5, 0], [-100, 7, 8]]
    with pytest.raises(ConfigError, match="a collator that adds 'token_type_ids'"):
        in_one_row({**batch, "token_type_ids": batch["labels"]})


def test_a_stream_is_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_dataset is a stream"):
        trainer_of(
            tiny, tmp_path / "out", Selective("random", candidates=8), train_dataset=chats().to_iterable_dataset()
        )
