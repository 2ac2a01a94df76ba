"""Signals do not depend on the size of micro-batches, and running out of memory costs a retry instead of the run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.errors import ModelError, TrainingError
from curate.log import LOGGER
from curate.numerics.head import Head
from curate.numerics.srft import TwoSided
from curate.signals import (
    Entropy,
    HeadGradNorm,
    Loss,
    MeanHidden,
    Probe,
    ScoreBudget,
    Sketch,
    Utility,
    WeightedMeanHidden,
    measure,
)
from curate.signals.beginnings import beginnings_together

D, V, T = 12, 60, 32


def head_of(**options: Any) -> Head:
    return Head(torch.randn(V, D, generator=torch.Generator().manual_seed(0)), **options)


def inputs_of(n: int = 17) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, T, (n,), generator=generator)
    mask = (torch.arange(T)[None] < lengths[:, None]).long()
    ids = torch.randint(1, V, (n, T), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


class Backbone:
    """Embed tokens and record the shapes of the calls; run out of memory above `limit` tokens."""

    def __init__(self, limit: int | None = None) -> None:
        self.table = torch.randn(V, D, generator=torch.Generator().manual_seed(2))
        self.limit = limit
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.limit is not None and ids.numel() > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append((ids.shape[0], ids.shape[1]))
        return self.table[ids]


def signals() -> dict[str, Any]:
    srft = TwoSided.draw(d1=2, d2=4, max_length=T, vocab_size=V, seed=0)
    return {
        "loss": Loss(),
        "entropy": Entropy(),
        "utility": Utility(),
        "sketch": Sketch(srft),
        "mean": MeanHidden(),
        "weighted": WeightedMeanHidden(),
        "grad": HeadGradNorm(),
    }


@pytest.mark.parametrize("budget", [ScoreBudget(tokens=1), ScoreBudget(tokens=70), ScoreBudget(texts=3), None])
def test_micro_batches_change_nothing_and_neither_does_the_order(budget: ScoreBudget | None) -> None:
    inputs = inputs_of()
    found = measure(Backbone(), head_of(), inputs, signals(), budget)
    for i in range(len(inputs["input_ids"])):
        n = int(inputs["attention_mask"][i].sum())
        alone = {key: value[i : i + 1, :n] for key, value in inputs.items()}
        for name, value in measure(Backbone(), head_of(), alone, signals()).items():
            torch.testing.assert_close(found[name][i : i + 1], value, rtol=1e-4, atol=1e-5)


def test_a_micro_batch_holds_as_many_padded_tokens_as_the_budget() -> None:
    backbone, inputs = Backbone(), inputs_of()
    measure(backbone, head_of(), inputs, {"loss": Loss()}, ScoreBudget(tokens=70, texts=5))
    assert sum(b for b, _ in backbone.shapes) == 17
    assert all(b * length <= 70 and b <= 5 for b, length in backbone.shapes)
    lengths = [length for _, length in backbone.shapes]
    assert lengths == sorted(lengths, reverse=True)
    fuller = [(b + 1) * length > 70 or b == 5 for b, length in backbone.shapes[:-1]]
    assert all(fuller)


def test_memory_that_runs_out_halves_the_budget_and_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, inputs, budget = Backbone(limit=80), inputs_of(), ScoreBudget(tokens=10_000)
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.WARNING, "curate"):
        found = measure(backbone, head_of(), inputs, signals(), budget)
    assert [record.message.split(":")[0][:13] for record in caplog.records] == ["Out of memory"]
    assert f"--score-batch-tokens {17 * 31 // 2}" in caplog.text
    assert 40 < budget.tokens <= 80
    plain = measure(Backbone(), head_of(), inputs, signals(), ScoreBudget(tokens=budget.tokens))
    assert all(torch.equal(found[name], plain[name]) for name in found)
    again = Backbone(limit=80)
    measure(again, head_of(), inputs, signals(), budget)
    assert again.shapes == backbone.shapes  # a resumed run that is given the budget makes the same micro-batches


def test_a_single_text_that_does_not_fit_says_what_to_lower() -> None:
    with pytest.raises(TrainingError, match=r"--max-length.*--dtype bfloat16 or --load-in-4bit"):
        measure(Backbone(limit=20), head_of(), inputs_of(), {"loss": Loss()}, ScoreBudget())


def test_a_fixed_budget_takes_as_many_texts_of_any_length_and_never_fewer() -> None:
    backbone = Backbone()
    measure(backbone, head_of(), inputs_of(16), {"loss": Loss()}, ScoreBudget(tokens=40, texts=4, fixed=True))
    assert [b for b, _ in backbone.shapes] == [4, 4, 4, 4]
    with pytest.raises(TrainingError, match="--score-batch-size"):
        measure(Backbone(limit=80), head_of(), inputs_of(), {"loss": Loss()}, ScoreBudget(texts=4, fixed=True))


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    def broken(ids: Tensor, mask: Tensor) -> Tensor:
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        measure(broken, head_of(), inputs_of(), {"loss": Loss()})


def test_a_text_without_targets_has_no_loss_and_the_others_keep_theirs() -> None:
    inputs = inputs_of()
    inputs["labels"][3] = -100
    found = measure(Backbone(), head_of(), inputs, {"loss": Loss()})["loss"]
    assert found.isnan().nonzero()[:, 0].tolist() == [3]


@pytest.mark.parametrize("spectrum", ["auto", "eigh", "svdvals", "newton", "polar"])
def test_every_spectrum_gives_the_utility(spectrum: Any) -> None:
    inputs = inputs_of()
    wanted = measure(Backbone(), head_of(), inputs, {"u": Utility(implementation="reference")})["u"]
    found = measure(Backbone(), head_of(), inputs, {"u": Utility(spectrum=spectrum)})["u"]
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=0)


def test_a_soft_capped_head_has_no_rows_and_says_so() -> None:
    inputs, capped = inputs_of(), head_of(softcap=5.0)
    wanted = measure(Backbone(), capped, inputs, {"u": Utility(implementation="reference")})["u"]
    found = measure(Backbone(), capped, inputs, {"u": Utility(spectrum="newton")})["u"]
    torch.testing.assert_close(found, wanted.double(), rtol=1e-4, atol=0)
    with pytest.raises(ModelError, match=r"spectrum=polar .* soft-capped"):
        measure(Backbone(), capped, inputs, {"u": Utility(spectrum="polar")})


def test_the_completion_is_what_the_loss_sees() -> None:
    inputs, backbone = inputs_of(), Backbone()
    hidden = backbone(inputs["input_ids"], inputs["attention_mask"])
    inputs["labels"][:, :5] = -100
    probe = Probe(hidden, head_of(), inputs["attention_mask"].bool(), inputs["labels"])
    for i, n in enumerate(inputs["attention_mask"].sum(1).tolist()):
        seen = probe.hidden("completion")[i].any(1).nonzero()[:, 0].tolist()
        assert seen == list(range(4, n - 1))


def test_texts_with_the_same_beginning_are_measured_together_and_nothing_else_moves() -> None:
    long, short = [*range(100, 130)], [*range(200, 215)]
    texts = [[*range(40)], [*long, 1, 2], [*range(300, 330)], [*short, 3, 4], [*long, 5], [9] * 16, short]
    order = beginnings_together(texts).tolist()
    assert order == [0, 1, 4, 2, 3, 6, 5]
    apart = [texts[index] for index in (0, 1, 2, 3, 5)]
    assert beginnings_together(apart).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tokens", [1, 35, 70, 1000])
def test_shared_beginnings_change_no_result_and_keep_to_the_budget(tokens: int) -> None:
    inputs, backbone = inputs_of(), Backbone()
    inputs["input_ids"][5:9, :12] = inputs["input_ids"][4, :12]
    wanted = measure(Backbone(), head_of(), inputs, signals(), ScoreBudget(texts=1))
    found = measure(backbone, head_of(), inputs, signals(), ScoreBudget(tokens=tokens), shared=True)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)
    assert all(b * length <= tokens or b == 1 for b, length in backbone.shapes)


def test_the_weighted_mean_counts_each_state_as_often_as_its_position() -> None:
    inputs, backbone = inputs_of(), Backbone()
    found = measure(backbone, head_of(), inputs, {"weighted": WeightedMeanHidden()}, ScoreBudget(texts=5))["weighted"]
    for ids, mask, vector in zip(inputs["input_ids"], inputs["attention_mask"], found, strict=True):
        length = int(mask.sum())
        total = sum((place + 1) * backbone.table[ids[place]].double() for place in range(length))
        torch.testing.assert_close(vector.double(), total / (length * (length + 1) / 2), rtol=1e-5, atol=1e-6)
