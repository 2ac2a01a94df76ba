"""The data type of a checkpoint is read without its weights; units of the CPU are those that torch names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.lm.precision import cpu_has_units, is_slow_here, stored_precision

AVX2 = {"avx2": True, "f16c": True, "avx512_bf16": False, "amx_bf16": False, "avx512_fp16": False}


@pytest.mark.parametrize(
    ("capabilities", "bfloat16", "float16"),
    [
        (AVX2, False, False),
        (AVX2 | {"avx512_bf16": True}, True, False),
        (AVX2 | {"amx_bf16": True, "amx_fp16": True}, True, True),
        ({"neon": True, "bf16": True}, True, False),
        ({"cpu_name": "bf1"}, False, False),
    ],
)
def test_units_are_those_that_torch_finds(
    capabilities: dict[str, Any], bfloat16: bool, float16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert (cpu_has_units("bfloat16"), cpu_has_units("float16")) == (bfloat16, float16)
    assert is_slow_here("bfloat16") is not bfloat16 and is_slow_here("float16") is not float16
    assert not is_slow_here("float32") and not is_slow_here(None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not is_slow_here("bfloat16")


def test_this_machine_answers() -> None:
    assert all(type(cpu_has_units(precision)) is bool for precision in ("bfloat16", "float16"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("named", ["dtype", "torch_dtype", None])
def test_the_data_type_is_that_in_which_transformers_loads(tiny: str, tmp_path: Path, named: str | None) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        folder = tmp_path / precision
        shutil.copytree(tiny, folder)
        load_model(ModelOptions(tiny, dtype=precision)).save_pretrained(folder)  # type: ignore[operator]
        edit(folder, lambda values: (values.pop("dtype", None), named and values.update({named: precision})))  # noqa: B023
        assert stored_precision(str(folder)) == precision
        assert {p.dtype for p in load_model(ModelOptions(str(folder))).parameters()} == {getattr(torch, precision)}


def test_quantized_weights_and_folders_without_a_model_have_none(tiny: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "m"))
    edit(folder, lambda values: values.update(quantization_config={}))
    assert stored_precision(str(folder)) is None
    assert stored_precision(str(tmp_path)) is None
