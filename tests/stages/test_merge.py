"""A merged model gives the logits of the model with its adapter, and loads without PEFT and without curate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.errors import ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.stages import make
from curate.store import Store

IDS = torch.arange(3, 20)[None]
SMALL: dict[str, Any] = {
    **{"pool": "pool", "selector": "random", "candidates": 4, "keep": 2, "max_steps": 2},
    **{"max_length": 64, "learning_rate": 1e-1},
}


@pytest.fixture
def trained(store: Store, pool_file: Path, tiny: str) -> Store:
    make(store, "ingest", name="pool", data=(str(pool_file),))
    make(store, "train", name="run", model=tiny, **SMALL)
    return store


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(IDS).logits)


def test_the_merged_model_is_the_adapted_one(trained: Store, tiny: str) -> None:
    merged = make(trained, "merge", model="run")
    assert merged.name == "run-merged" and not (merged.files / "adapter_config.json").exists()
    assert [file.name for file in merged.files.iterdir() if file.suffix in (".bin", ".pt", ".safetensors")] == [
        "model.safetensors"
    ]
    whole: Any = AutoModelForCausalLM.from_pretrained(merged.files)
    adapted = logits(load_model(ModelOptions(str(trained.get("run").files))))
    torch.testing.assert_close(logits(whole), adapted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(whole), logits(load_model(ModelOptions(tiny))), atol=1e-2)
    assert AutoTokenizer.from_pretrained(merged.files).chat_template
    for name in ("run", "run-merged"):
        make(trained, "evaluate", name=f"e-{name}", model=name, pool="pool")
    losses = (
        trained.query("SELECT value FROM evaluations WHERE metric = 'loss' AND grouped_by IS NULL")
        .column("value")
        .to_pylist()
    )
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_merged_model_is_trained_with_another_rank(trained: Store) -> None:
    make(trained, "merge", model="run", name="merged")
    second = make(trained, "train", name="second", model="merged", lora_r=2, **SMALL)
    assert '"r": 2' in (second.files / "adapter_config.json").read_text() and "adapter" not in second.inputs


def test_half_precision_rounds_the_sum_and_says_so(trained: Store) -> None:
    half = make(trained, "merge", model="run", name="half", dtype="bfloat16")
    assert "rounded" in half.summary["dtype"]
    model: Any = AutoModelForCausalLM.from_pretrained(half.files)
    assert model.dtype == torch.bfloat16
    exact = logits(load_model(ModelOptions(str(trained.get("run").files))))
    assert 1e-5 < (logits(model).float() - exact).norm() / exact.norm() < 3e-2
    assert "rounded" not in make(trained, "merge", model="run", name="exact").summary["dtype"]


def test_a_model_without_an_adapter_has_nothing_to_merge(store: Store, tiny: str) -> None:
    with pytest.raises(ModelError, match="has no adapter, so there is nothing to merge"):
        make(store, "merge", model=tiny)


def test_weights_of_four_bits_are_refused(trained: Store) -> None:
    pytest.importorskip("bitsandbytes")
    from curate.lm.model.adapters import merge_adapter

    model = load_model(ModelOptions(str(trained.get("run").files), load_in_4bit=True))
    with pytest.raises(ModelError, match="cannot be merged into weights of 4 bits"):
        merge_adapter(model, "run")
