"""Check the laws of curate for both selectors, and that each selects as intended."""

import torch
from curate_closest import Closest, Shortest

from curate.selectors import CandidateBatch, RunInfo, choose
from curate.testing import check_pool_selector, check_selector


def test_they_keep_curates_laws() -> None:
    check_selector(Closest)
    check_selector(Closest, {"aim": 0.5})
    check_pool_selector(Shortest)


def test_the_closest_are_kept() -> None:
    losses = torch.tensor([0.1, 2.1, 5.0, 1.8])
    batch = CandidateBatch(1, torch.arange(4), torch.ones(4), {"loss": losses})
    scores = Closest(info=RunInfo(vocab_size=8, max_length=8)).score(batch)
    assert choose(scores.total, 2).tolist() == [1, 3]
