"""Helpers for tests of training runs: interrupt one at a step, and read its weights and its rows in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from curate import Artifact
from curate.store import Store
from curate.training.step import BatchSelection


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Raise KeyboardInterrupt at the selection of a step, as Ctrl-C would, and expect it to leave the block."""
    select = BatchSelection.select

    def stop(self: BatchSelection, batch: Any) -> Any:
        if batch.step == step:
            raise KeyboardInterrupt
        return select(self, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BatchSelection, "select", stop)
        yield


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(next(artifact.files.glob("*model.safetensors")))


def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    return store.query(sql).to_pylist()
