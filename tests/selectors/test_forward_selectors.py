"""RSR: its score is what an obvious loop over the tokens gives."""

from __future__ import annotations

import pytest
import torch

from curate.errors import ConfigError
from curate.numerics.head import Head
from curate.numerics.losses import IGNORE
from curate.selectors import CandidateBatch, RunInfo, make_selector, requirements_of
from curate.signals import Probe

INFO = RunInfo(vocab_size=50, max_length=16, keep=2)


def probe_of(texts: int = 4, length: int = 9, seed: int = 0) -> Probe:
    """Return texts of different lengths, whose first two tokens are no targets; the last text has one target."""
    generator = torch.Generator().manual_seed(seed)
    head = Head(torch.randn(INFO.vocab_size, 6, generator=generator))
    labels = torch.randint(0, INFO.vocab_size, (texts, length), generator=generator)
    lengths = torch.tensor([length, length - 2, length - 4, 3])[:texts, None]
    index = torch.arange(length)
    labels[(index < 2) | (index >= lengths)] = IGNORE
    return Probe(2 * torch.randn(texts, length, 6, generator=generator), head, index < lengths, labels)


def rows_of(probe: Probe) -> list[list[tuple[float, int]]]:
    """Return loss and rank of each target token, text by text: the slow twin."""
    log_p = torch.log_softmax(probe.logits(), -1)
    found = []
    for text, targets in zip(log_p, probe.targets.tolist(), strict=True):
        tokens = [(t, y) for t, y in enumerate(targets) if y != IGNORE]
        found.append([(-float(text[t, y]), 1 + sum(p > text[t, y] for p in text[t])) for t, y in tokens])
    return [[(loss, int(rank)) for loss, rank in text] for text in found]


@pytest.mark.parametrize("max_rank", [0, 5, 100])
def test_rsr_is_the_mean_rank_over_the_mean_loss_of_the_target_tokens(max_rank: int) -> None:
    selector = make_selector("rsr", {"max_rank": max_rank}, INFO)
    values = {name: signal(probe_of()) for name, signal in selector.signals.items()}
    scores = selector.score(CandidateBatch(1, torch.arange(4), torch.ones(4), values))
    for row, tokens in enumerate(rows_of(probe_of())):
        ranks = [min(rank, max_rank or rank) for _, rank in tokens]
        ratio = sum(ranks) / sum(loss for loss, _ in tokens)
        assert float(scores.total[row]) == pytest.approx(-ratio, rel=1e-5)
        assert float(scores.parts["mean_rank"][row]) == pytest.approx(sum(ranks) / len(ranks), rel=1e-5)


def test_rsr_refuses_a_rank_that_is_no_whole_number() -> None:
    for wrong in (-1, 0.5):
        with pytest.raises(ConfigError, match="max_rank must be a whole number, 0 or more"):
            requirements_of("rsr", {"max_rank": wrong})
