"""A run on a model with an adapter goes on from what that adapter learned, and its result loads without curate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from curate.api.commands.status import stale_inputs
from curate.errors import ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, load_tokenizer
from curate.lm.model.memory import count
from curate.lm.model.parameter_count import count_weights
from curate.stages import make
from curate.store import Store

IDS = torch.arange(3, 20)[None]
SMALL: dict[str, Any] = {"pool": "pool", "candidates": 4, "keep": 2, "max_steps": 2, "max_length": 64}


def logits(location: Path | str) -> torch.Tensor:
    with torch.no_grad():
        model = load_model(ModelOptions(str(location))).eval()
        return torch.as_tensor(model(IDS).logits)


@pytest.fixture
def base(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter of rank 3 that has learned something, as PEFT saves it."""
    torch.manual_seed(1)
    adapted: Any = add_lora(
        load_model(ModelOptions(str(base))), r=3, alpha=6, dropout=0.0, target_modules="q_proj,down_proj"
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def pooled(store: Store, pool_file: Path) -> Store:
    make(store, "ingest", name="pool", data=(str(pool_file),))
    return store


def loaded_by_peft(folder: Path, base: Path) -> torch.Tensor:
    with torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        return torch.as_tensor(model(IDS).logits)


@pytest.mark.parametrize("selector", ["uds", "filter_weight", "random"])
def test_a_run_goes_on_with_the_adapter(
    pooled: Store, base: Path, adapter: Path, selector: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    extra = {"target": "pool"} if selector == "filter_weight" else {}
    run = make(pooled, "train", name="run", model=str(adapter), selector=selector, learning_rate=1e-5, **extra, **SMALL)
    before, after = logits(adapter), logits(run.files)
    assert 0 < (after - before).norm() < 0.01 * (before - logits(base)).norm()
    assert torch.equal(loaded_by_peft(run.files, base), after)
    config = json.loads((run.files / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (3, ["down_proj", "q_proj"])
    assert config["base_model_name_or_path"] == str(base)
    assert f"The run continues the adapter in {adapter}" in caplog.text


def test_a_run_on_a_run_goes_on_from_it(pooled: Store, base: Path) -> None:
    first = make(pooled, "train", name="first", model=str(base), selector="random", learning_rate=1e-1, **SMALL)
    second = make(pooled, "train", name="second", model="first", selector="random", learning_rate=1e-6, **SMALL)
    learned = (logits(first.files) - logits(base)).norm()
    assert 0 < (logits(second.files) - logits(first.files)).norm() < 0.01 * learned
    assert torch.equal(loaded_by_peft(second.files, base), logits(second.files))
    assert second.inputs["adapter"] == "continued"


def test_all_weights_are_trained_from_the_merged_model(pooled: Store, adapter: Path) -> None:
    run = make(
        pooled, "train", name="run", model=str(adapter), selector="random", full=True, learning_rate=1e-7, **SMALL
    )
    assert not (run.files / "adapter_config.json").exists()
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(run.files)(IDS).logits
    assert 0 < (whole - logits(adapter)).norm() < 1e-3 * whole.norm()


def test_a_relative_base_is_found_beside_the_adapter(
    base: Path, adapter: Path, pooled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(adapter)
    named(adapter, "../base")
    monkeypatch.chdir("/")
    assert torch.equal(logits(adapter), expected)
    assert load_tokenizer(ModelOptions(str(adapter))).chat_template
    run = make(pooled, "train", name="run", model=str(adapter), selector="random", **SMALL)
    assert json.loads((run.files / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def named(adapter: Path, base: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_an_adapter_on_an_adapter_adds_to_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    upper = Path(shutil.copytree(adapter, tmp_path / "upper"))
    named(upper, str(adapter))
    with torch.no_grad():
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
        expected = PeftModel.from_pretrained(merged, upper).eval()(IDS).logits
    torch.testing.assert_close(logits(upper), expected)
    assert not torch.allclose(logits(upper), logits(adapter), atol=1e-3)


def test_the_base_counts_by_its_content(pooled: Store, base: Path, adapter: Path) -> None:
    options: dict[str, Any] = {"pool": "pool", "model": str(adapter), "signals": ("loss",)}
    first = make(pooled, "embed", name="f", **options)
    assert not list(stale_inputs(pooled, first))
    (base / "note.txt").write_text("another content")
    assert list(stale_inputs(pooled, first)) == [f"the base model of model '{adapter}' has changed"]
    assert make(pooled, "embed", name="g", **options).path != first.path
    base.rename(base.with_name("moved"))
    assert list(stale_inputs(pooled, first)) == [f"the base model of model '{adapter}' is gone"]


def test_a_base_that_is_not_here_is_not_downloaded(
    pooled: Store, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    named(adapter, "stranger/base-model")
    for use in (
        lambda: load_model(ModelOptions(str(adapter))),
        lambda: count_weights(str(adapter)),
        lambda: make(pooled, "embed", name="f", pool="pool", model=str(adapter), signals=("loss",)),
        lambda: make(pooled, "train", name="r", model=str(adapter), **SMALL),
    ):
        with pytest.raises(ModelError, match=r"base model of the adapter in .* is not on this machine: 'stranger/base"):
            use()


def test_code_of_the_base_needs_the_flag(base: Path, adapter: Path) -> None:
    mark = base.parent / "ran"
    (base / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    file = base / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"model_type": "strange", "auto_map": {"AutoConfig": "code.C"}})
    )
    with pytest.raises(ModelError):
        load_model(ModelOptions(str(adapter)))
    assert not mark.exists()


def test_learned_tokens_before_the_text_are_refused(base: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    model.save_pretrained(tmp_path / "prompt")
    named(tmp_path / "prompt", str(base))
    with pytest.raises(ModelError, match="puts learned tokens before the text"):
        load_model(ModelOptions(str(tmp_path / "prompt")))


def test_the_estimate_counts_the_weights_of_the_adapter(base: Path, adapter: Path) -> None:
    from curate.lm.model.adapters import adapt_without_data

    shape = count(ModelOptions(str(adapter)), lambda model: adapt_without_data(model, str(adapter)), 64)
    trained = sum(
        p.numel() for p in load_model(ModelOptions(str(adapter)), trainable=True).parameters() if p.requires_grad
    )
    assert shape.trained == trained and shape.weights == count(ModelOptions(str(base)), None, 64).weights
