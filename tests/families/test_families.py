"""Selected families of the matrix: every cell is right, or refused in one sentence.

`python -m tests.families` prints all families.
"""

from __future__ import annotations

import pytest
import torch

from curate.errors import ModelError

from . import oracle
from .__main__ import BAD
from .cells import Cell, cell, row_of
from .workers import rows

FAMILIES = (
    *("llama", "gpt2", "gemma2", "mamba", "bert"),
    *("mixtral", "deepseek_v3", "bart"),
)
"""Grouped heads, Conv1D, windows and soft-caps, state spaces, a head that is refused; experts, latent attention, and a
loss that is not of the next tokens."""


@pytest.mark.parametrize("family", FAMILIES)
def test_each_cell_of_a_family_is_right_or_refused(family: str) -> None:
    (row,) = rows([family], 1)
    assert "build" not in row.cells
    assert not {name: (c.state, c.error, c.text) for name, c in row.cells.items() if c.state in BAD}
    assert row.cells["load"].state == row.cells["doctor"].state == "right"
    assert row.cells["head"].state == ("refused" if family == "bert" else "right")


def test_what_transformers_does_not_build_is_told() -> None:
    (found,) = row_of("blt").values()
    assert found.state == "none" and "Error: " in found.text


def test_a_wrong_or_missing_gradient_and_an_error_are_seen() -> None:
    wanted = {"a": torch.ones(2, 3), "b": torch.full((2, 4), 2.0)}
    assert oracle.worst(wanted, wanted)[0] == 0
    assert oracle.worst({"a": wanted["a"]}, wanted) == (1.0, "b")
    assert oracle.worst({**wanted, "a": wanted["a"] * 1.001}, wanted)[1] == "a"
    assert cell(lambda: (2e-4, "a")) == Cell("wrong", 2e-4, "a")
    assert cell(lambda: 1e-5).state == "right" and cell(lambda: float("nan")).state == "wrong"

    def refuse() -> float:
        raise ModelError("No.")

    assert cell(refuse) == Cell("refused", None, "No.")
    assert cell(lambda: 1 / 0).state == "traceback"


def test_a_family_that_ends_its_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from . import workers

    monkeypatch.setattr(workers, "row_of", lambda name: os._exit(3))
    (row,) = rows(["llama"], 1)
    assert row.cells["process"].state == "traceback" and "3" in row.cells["process"].text
