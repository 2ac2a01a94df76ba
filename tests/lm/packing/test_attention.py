"""Texts of one row have the states, losses and gradients that they have alone, or the proof refuses the row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curate.lm.model.chunked_loss import chunk_loss
from curate.lm.model.load import add_lora
from curate.lm.model.row_proof import can_split, packer_for_training, with_packing
from curate.lm.model.scoring_model import ScoringModel, make_scoring_model
from curate.lm.packing.attention import RowAttention
from curate.lm.packing.packed import LossPacking, Packed, Packer, row_of
from curate.lm.tokens.batch import weigh
from curate.signals import Loss, ScoreBudget, Utility, measure
from tests.support.families import MIXED, PACKED, WINDOW, family

PREFIX = [11, 12, 13, 14, 15, 16, 17, 18]
TEXTS = [
    [*PREFIX, *range(20, 40)],
    [7],
    [*PREFIX, *range(40, 45)],
    [*PREFIX],
    [*PREFIX, *range(20, 29), 99, 98],
    [150, 151, 152],
    [*PREFIX, *range(20, 40)],
]
"""Texts that share beginnings: whole, in part, not at all, and of one token."""


def batch_of(texts: list[list[int]] = TEXTS) -> dict[str, Tensor]:
    """Pad texts; the first third of each has no target, and the last text has none at all."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    mask = torch.arange(longest) < torch.tensor([[len(text)] for text in texts])
    starts = torch.tensor([[len(text) // 3] for text in texts])
    starts[-1] = longest if len(texts) > 1 else starts[-1]
    labels = ids.where(mask & (torch.arange(longest) >= starts), -100)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def alone(scoring_model: ScoringModel, texts: list[list[int]] = TEXTS) -> list[Tensor]:
    """Return the last hidden states of each text by itself: the slow reference."""
    with torch.no_grad(), scoring_model.eval_mode():
        backbone = scoring_model.backbone
        return [backbone(torch.tensor([text]), use_cache=False).last_hidden_state[0] for text in texts]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("least", [None, 1, 32])
def test_states_in_a_row_are_those_of_each_text_alone(name: str, least: int | None) -> None:
    model = family(name)
    scoring_model = make_scoring_model(model)
    packed = replace(scoring_model, packer=Packer(RowAttention(model), least))
    batch = batch_of()
    with torch.inference_mode(), packed.eval_mode():
        found = packed.hidden(batch["input_ids"], batch["attention_mask"])
    for states, wanted in zip(found, alone(scoring_model), strict=True):
        torch.testing.assert_close(states[: len(wanted)], wanted, rtol=1e-4, atol=1e-5)


def loss_of(model: nn.Module, batch: dict[str, Tensor], **more: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients, and clear them."""
    loss = model(**batch, **more).loss
    loss.backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradient


def packed_model(model: nn.Module) -> LossPacking:
    packing, scoring_model = LossPacking(), make_scoring_model(model)
    chunk_loss(scoring_model, 64 << 20, packing)
    packing.packer = packer_for_training(scoring_model, packing, longest=40)
    return packing


def require_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    square = sum(value.double().square().sum() for value in wanted.values())
    off = sum((found[name] - value).double().square().sum() for name, value in wanted.items())
    assert square > 0 and (off / square).sqrt() < 1e-5  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("how", ["all weights", "lora", "checkpointing"])
def test_the_gradient_of_packed_texts_is_that_of_padded_texts(name: str, how: str) -> None:
    model = family(name)
    if how == "lora":
        model = add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear")
        nn.init.normal_(next(p for n, p in model.named_parameters() if "lora_B" in n))
    packing = packed_model(model)
    assert packing.packer is not None and packing.packer.shares
    if how == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.train()
    batch = batch_of()
    wanted_loss, wanted = loss_of(model, batch)
    with packing.on():
        found_loss, found = loss_of(model, batch)
    torch.testing.assert_close(found_loss, wanted_loss, rtol=1e-5, atol=0)
    require_close(found, wanted)
    again, gradient = loss_of(model, batch)  # outside of the block nothing is packed
    assert torch.equal(again, wanted_loss) and all(torch.equal(gradient[n], wanted[n]) for n in wanted)


def test_weights_of_texts_count_in_a_row() -> None:
    model, batch = family("llama"), batch_of()
    packing = packed_model(model)
    batch = weigh(batch, torch.linspace(0.1, 1.0, len(TEXTS)))
    wanted_loss, wanted = loss_of(model, batch)
    with packing.on():
        found_loss, found = loss_of(model, batch)
    torch.testing.assert_close(found_loss, wanted_loss)
    require_close(found, wanted)


@pytest.mark.parametrize("texts", [[[5]], [[5], [6]], [[5, 6, 7]], [[5, 6, 7], [5, 6, 7]]])
def test_short_texts_one_text_and_equal_texts(texts: list[list[int]]) -> None:
    model, batch = family("llama"), batch_of(texts)
    packing = packed_model(model)
    batch["num_items_in_batch"] = torch.tensor(5)
    wanted_loss, wanted = loss_of(model, batch)
    with packing.on():
        found_loss, found = loss_of(model, batch)
    torch.testing.assert_close(found_loss, wanted_loss)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_a_model_that_mixes_the_texts_of_a_row_is_not_packed(name: str) -> None:
    model = family(name)
    scoring_model, packing = make_scoring_model(model), LossPacking()
    assert with_packing(scoring_model, 40).packer is None
    chunk_loss(scoring_model, 64 << 20, packing)
    assert packer_for_training(scoring_model, packing, 40) is None
    assert can_split(scoring_model, 40)


def test_a_loss_that_depends_on_the_batch_is_neither_packed_nor_split() -> None:
    model = family("router loss")
    scoring_model, packing = make_scoring_model(model), LossPacking()
    chunk_loss(scoring_model, 64 << 20, packing)
    assert packer_for_training(scoring_model, packing, 40) is None and not can_split(scoring_model, 40)
    assert with_packing(scoring_model, 40).packer is not None  # its states do not


def test_a_window_that_the_attention_is_not_told_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families whose windows are in the mask only would see everything in a row."""
    import curate.lm.packing.attention as rows

    scoring_model = make_scoring_model(family("qwen3"))
    assert with_packing(scoring_model, 40).packer is not None
    own = rows._mask_of
    monkeypatch.setattr(rows, "_mask_of", lambda row, segment, window, like: own(row, segment, None, like))
    assert with_packing(scoring_model, 40).packer is None
    assert with_packing(scoring_model, WINDOW).packer is not None  # no text is longer than the window


def test_the_proof_leaves_weights_gradients_and_random_numbers_alone() -> None:
    model = family("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state, implementation = torch.get_rng_state(), model.config._attn_implementation  # type: ignore[union-attr]
    packed_model(model)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())
    assert model.config._attn_implementation == implementation  # type: ignore[union-attr]


def test_beginnings_are_not_shared_in_training_with_dropout() -> None:
    model = add_lora(family("llama"), r=2, alpha=4, dropout=0.1, target_modules="all-linear")
    packing = packed_model(model)
    assert packing.packer is not None and not packing.packer.shares


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_signals_with_shared_beginnings_are_those_without(name: str) -> None:
    scoring_model, batch = make_scoring_model(family(name)), batch_of()
    batch["labels"][-1] = batch["labels"][0]
    packed = with_packing(scoring_model, 40)
    assert packed.packer is not None and packed.packer.shares
    signals = {"loss": Loss(), "utility": Utility()}
    with scoring_model.eval_mode():
        wanted = measure(scoring_model.hidden, scoring_model.head, batch, signals, ScoreBudget(texts=1))
        for budget in (ScoreBudget(tokens=4096), ScoreBudget(tokens=60)):
            found = measure(packed.hidden, packed.head, batch, signals, budget)
            for key, value in wanted.items():
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, equal_nan=True)


def slow_paths(texts: list[list[int]], row: list[int], locations: list[Any]) -> None:
    assert [[row[location] for location in own] for own in locations] == texts


@pytest.mark.parametrize("least", [None, 1, 8, 1000])
def test_the_places_of_a_text_in_a_row_hold_its_tokens_and_pieces_know_their_ancestors(least: int | None) -> None:
    row, positions, segments, locations = row_of(TEXTS, least)
    slow_paths(TEXTS, row, locations)
    assert [[positions[location] for location in own] for own in locations] == [
        list(range(len(text))) for text in TEXTS
    ]
    for own in locations:  # what a token sees along the path of its segment is its own text before it
        for segment in segments:
            inside = [location for location in own if segment.begin <= location < segment.end]
            if inside:
                seen = [location for span in segment.path for location in range(*span)]
                assert seen[: segment.start] == list(own[: segment.start])
    total = sum(map(len, TEXTS))
    assert len(row) == total if least in (None, 1000) else len(row) < total
    if least == 1:  # nothing is computed twice
        assert len(row) == len({tuple(text[: n + 1]) for text in TEXTS for n in range(len(text))})


def test_a_thousand_texts_that_each_fork_once_more_need_no_deep_recursion() -> None:
    texts = [[*range(n), 5000 + n] for n in range(1, 1200)]
    row, _, _, locations = row_of(texts, 1)
    slow_paths(texts, row, locations)


def test_a_row_in_segments_has_no_padding_and_unpacks_to_zeros_there() -> None:
    batch = batch_of()
    packed = Packed.in_segments(batch["input_ids"], batch["attention_mask"], torch.device("cpu"), least=8)
    back = packed.unpack(packed.inputs["input_ids"][..., None].float())[..., 0]
    assert torch.equal(back, batch["input_ids"].float())
    assert packed.inputs["input_ids"].shape[1] < int(batch["attention_mask"].sum())
