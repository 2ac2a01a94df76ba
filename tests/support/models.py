"""Fixtures for tests that need a language model: a tiny model with random weights, and a pool for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a two-layer Llama with its tokenizer and a chat template with generation tags."""
    import torch

    from curate.demo.model import build_model, save, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(0, 400)
    torch.manual_seed(0)
    save(build_model(tokenizer, hidden_size=32, layers=2, heads=2, positions=128), tokenizer, folder)
    return str(folder)


@pytest.fixture
def options(tiny: str) -> Any:
    from curate.lm.model.config_checks import ModelOptions

    return ModelOptions(tiny)


@pytest.fixture(scope="session")
def pool_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short instruction pairs."""
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    rows = [
        {"instruction": f"Add {i} and {i * 7 % 13}.", "input": "", "output": f"{i + i * 7 % 13} " * (1 + i % 5)}
        for i in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
