"""Tokens that a selector masks are no targets of the step, and the ledger says which they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from curate.errors import PluginError
from curate.integrations import BatchSelector
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.selectors import SELECTORS, CandidateBatch, GradientNeeds, Scores, Selector
from curate.signals import Loss
from tests.integrations.test_batch_selector import batch_of
from tests.support.steps import Texts, apart, step_of

WAYS: dict[str, dict[str, Any]] = {
    "padded": {"batching": "padded"},
    "packed and split": {"batching": "packed", "train_batch_tokens": 40},
    "accumulated": {"accumulation": 2},
    "chunked": {"logits_budget": 0},
}


class Thirds(Selector):
    """Selector that keeps every candidate and leaves out each third token of those at even positions."""

    signals = MappingProxyType({"loss": Loss()})
    weighs = False

    def score(self, batch: CandidateBatch) -> Scores:
        ones = torch.ones(len(batch), dtype=torch.float64)
        masks = torch.ones(len(batch), 128, dtype=torch.bool)
        masks[batch.positions % 2 == 0, ::3] = False
        return Scores(ones, {}, 3 * ones if self.weighs else None, masks)


class WeightedThirds(Thirds):
    """The same, with equal weights for all candidates."""

    weighs = True


class Measured(Thirds):
    """The same, with a backward pass over the candidates."""

    gradients = GradientNeeds(norms=True)
    signals = MappingProxyType({})


class Whole(Selector):
    """Selector that keeps every candidate as it is, with equal weights."""

    signals = MappingProxyType({"loss": Loss()})

    def score(self, batch: CandidateBatch) -> Scores:
        ones = torch.ones(len(batch), dtype=torch.float64)
        return Scores(ones, {}, 3 * ones)


@pytest.fixture(autouse=True)
def selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in {"thirds": Thirds, "weighted": WeightedThirds, "measured": Measured, "whole": Whole}.items():
        monkeypatch.setitem(SELECTORS, name, kind)


def pruned(texts: Texts) -> Texts:
    """Return the texts without the targets that `Thirds` leaves out."""
    rows = []
    for number, row in enumerate(texts.rows):
        target = row.target.copy()
        if number % 2 == 0:
            target[::3] = False
        rows.append(replace(row, target=target))
    return Texts(rows)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", [[1] * 6, [2, 1, 3, 1, 1, 2]], ids=["rows alike", "weighted rows"])
@pytest.mark.parametrize("selector", ["thirds", "weighted", "measured"])
def test_a_step_trains_on_what_the_masks_leave(
    selector: str, weights: list[float], way: str, tiny: str, tmp_path: Path
) -> None:
    texts = Texts.drawn(weights)
    options: dict[str, Any] = {**WAYS[way], "reuse": selector == "measured"}
    step = step_of(texts, tiny, tmp_path / "masked", selector, **options)
    plain = "whole" if selector == "weighted" else "full"
    wanted = step_of(pruned(texts), tiny, tmp_path / "pruned", plain, **WAYS[way])
    assert apart(step.gradient, wanted.gradient) < 1e-6
    whole = step_of(texts, tiny, tmp_path / "whole", plain, **WAYS[way])
    assert apart(step.gradient, whole.gradient) > 1e-2, "the masks do something"


def test_the_ledger_has_the_mask_and_the_number_of_tokens_that_were_trained_on(tiny: str, tmp_path: Path) -> None:
    texts = Texts.drawn([1] * 5)
    step = step_of(texts, tiny, tmp_path, "thirds", keep=3)
    masks, counts = step.columns["token_mask"].to_pylist(), step.columns["parts"]["trained_tokens"]
    for slot, position in enumerate(step.columns["position"]):
        kept, row = step.columns["kept"][slot], texts.rows[position]
        targets = np.flatnonzero(row.target[1:]) + 1
        left = np.array([position % 2 == 1 or t % 3 != 0 for t in targets])
        assert (counts[slot] == left.sum()) if kept else np.isnan(counts[slot])
        if not kept or left.all():
            assert masks[slot] is None
        else:
            bits = np.unpackbits(np.frombuffer(masks[slot], np.uint8))[: len(targets)]
            assert bits.astype(bool).tolist() == left.tolist()
    assert sum(mask is not None for mask in masks) >= 1


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (
            lambda n: torch.ones(n, 2, dtype=torch.bool),
            r"torch.bool of the shape \(4, 2\) instead of .*\(4, 15 or more",
        ),
        (lambda n: torch.ones(n, 128), r"torch.float32 of the shape \(4, 128\)"),
        (lambda n: [True] * n, "instead of a tensor"),
        (lambda n: torch.zeros(n, 128, dtype=torch.bool), "left a kept candidate no token to train on"),
    ],
)
def test_masks_of_another_form_are_refused(
    masks: Any, said: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Thirds):
        def score(self, batch: CandidateBatch) -> Scores:
            return Scores(torch.ones(len(batch)), token_masks=masks(len(batch)))

    monkeypatch.setitem(SELECTORS, "wrong", Wrong)
    with pytest.raises(PluginError, match=said):
        step_of(Texts.drawn([1] * 4), tiny, tmp_path, "wrong")


@pytest.mark.parametrize("left", [False, True])
def test_a_loop_of_a_user_gets_labels_without_the_masked_tokens(left: bool, tiny: str) -> None:
    batch = batch_of(left=left)
    model = load_model(ModelOptions(tiny, dtype="float32"))
    kept = BatchSelector("thirds", model, keep=len(batch["labels"])).choose(batch, rows=range(len(batch["labels"])))
    for row, (labels, mask) in enumerate(zip(batch["labels"], batch["attention_mask"].bool(), strict=True)):
        own = labels[mask].tolist()
        wanted = [-100 if row % 2 == 0 and t % 3 == 0 else label for t, label in enumerate(own)]
        assert kept["labels"][row][kept["attention_mask"][row].bool()].tolist() == wanted
        assert (kept["labels"][row][~kept["attention_mask"][row].bool()] == -100).all()
