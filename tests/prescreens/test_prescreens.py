"""Laws of prescreens on made-up candidates: what they predict, what they rule out, what they say that they miss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.prescreens import Auto, Candidates, LastScore, Line, MissEstimate, Prescreen, Screened, Screening, missed
from curate.prescreens.line import FORGET, column_of
from curate.prescreens.misses import clopper_pearson
from curate.selectors import CandidateBatch, RunInfo, Scores, Selector, choose

COUNT, KEEP = 32, 4
INFO = RunInfo(vocab_size=50, max_length=16, seed=5, keep=KEEP)


class ByValue(Selector):
    """Score = the value that was planted."""

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.values["value"])


class OneOfEach(ByValue):
    """Picks the highest of each of four kinds first, so that scores depend on the other candidates."""

    def score(self, batch: CandidateBatch) -> Scores:
        value, kind = batch.values["value"], batch.positions % 4
        best = torch.stack([value.where(kind == one, -torch.inf).max() for one in range(4)])[kind]
        return Scores(value + 100 * (value == best))


def candidates(step: int, count: int = COUNT) -> Candidates:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(5, 300, (count,), generator=generator)
    return Candidates(torch.randperm(100, generator=generator)[:count], tokens, tokens // 2)


def batch_of(step: int, known: Candidates, values: Tensor) -> CandidateBatch:
    return CandidateBatch(step, known.rows, known.tokens, {"value": values})


def one_step(
    screening: Screening, step: int, known: Candidates, values: Tensor
) -> tuple[set[int], Screened, str | None]:
    """Make a step as in training, and return the rows that are kept."""
    screened = screening.screen(step, known, known.rows, KEEP)
    selector, rows = ByValue(info=INFO), screened.scored
    batch = batch_of(step, known.at(rows), values[rows])
    hits = missed(selector, batch, torch.ones(len(rows), dtype=torch.bool), screened, KEEP)
    scores = selector.score(batch)
    kept = rows[choose(scores.total, KEEP, batch.chances(INFO.seed))]
    return set(kept.tolist()), screened, screening.record(step, known, screened, scores, hits, KEEP)


def exact(step: int, known: Candidates, values: Tensor) -> set[int]:
    return set(choose(values, KEEP, batch_of(step, known, values).chances(INFO.seed)).tolist())


PLANTED = {
    "length": (lambda: Line(), lambda known: 3.0 * known.tokens - known.target_tokens + 7),
    "short": (lambda: Line(), lambda known: -1.0 * known.tokens.double()),
    "last_score": (lambda: LastScore(100), lambda known: torch.sin(known.rows.double())),
    "auto": (lambda: Auto(100), lambda known: known.tokens + 50 * torch.sin(known.rows.double())),
    "feature": (lambda: Line(column_of(torch.arange(100.0).cos()), 1), lambda known: -known.rows.double().cos()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_where_the_value_is_what_the_prescreen_knows_the_kept_set_is_the_exact_one(name: str) -> None:
    make, value = PLANTED[name]
    screening, scored = Screening(make(), share=0.25, seed=3), []
    fixed = candidates(0)
    for step in range(1, 13):
        known = candidates(step) if "score" not in name and name != "auto" else fixed
        kept, screened, opened = one_step(screening, step, known, value(known).double())
        assert kept == exact(step, known, value(known).double()) and opened is None
        scored.append(len(screened.scored))
    assert scored[0] == COUNT, "nothing is known before the first step"
    assert scored[1:] == [8 + 3] * 11
    found = screening.misses.of_run()
    assert found.number == found.low == 0 < found.high and found.audited == 33


@pytest.mark.parametrize("prescreen", [Line(), LastScore(100), Auto(100)], ids=["length", "last_score", "auto"])
def test_with_share_one_nothing_is_ruled_out(prescreen: Prescreen) -> None:
    screening = Screening(prescreen, share=1.0)
    for step in range(1, 4):
        known = candidates(step)
        _, screened, opened = one_step(screening, step, known, known.tokens.double())
        assert screened.scored.tolist() == list(range(COUNT)) and opened is None
        assert not screened.audited.any() and (screened.stages == 3).all()


@pytest.mark.parametrize("kind", [ByValue, OneOfEach])
def test_the_number_of_missed_candidates_is_estimated_without_bias(kind: type[Selector]) -> None:
    known = candidates(1)
    values = torch.randn(COUNT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    selector = kind(info=INFO)
    estimates = []
    for seed in range(120):
        screening = Screening(LastScore(100), share=0.5, seed=seed)
        screening.prescreen.learn(known, values + 2 * torch.randn(COUNT, generator=torch.Generator().manual_seed(7)))
        screened = screening.screen(1, known, known.rows, KEEP)
        rows = screened.scored
        batch = batch_of(1, known.at(rows), values[rows])
        hits = missed(selector, batch, torch.ones(len(rows), dtype=torch.bool), screened, KEEP)
        estimates.append(hits * int(screened.ruled_out.sum()) / int(screened.audited.sum()))
    passed = [int(row) for row in (~screened.ruled_out).nonzero()]
    count = 0
    for one in screened.ruled_out.nonzero()[:, 0].tolist():  # score every ruled-out candidate, one by one
        index = torch.tensor(sorted([*passed, one]))
        part = batch_of(1, known.at(index), values[index])
        count += one in index[choose(selector.score(part).total, KEEP, part.chances(INFO.seed))].tolist()
    assert 0 < count < 16
    spread = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - count) < 4 * spread
    if kind is ByValue:
        assert count >= len(exact(1, known, values) - set(passed))


def tail(hits: int, count: int, share: float) -> float:
    """P(X ≥ hits) of a binomial X, term by term."""
    return sum(math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(hits, count + 1))


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (1, 5), (3, 40), (40, 40)])
def test_the_ends_of_the_interval_have_the_tails_of_clopper_and_pearson(hits: int, count: int) -> None:
    low, high = clopper_pearson(hits, count)
    assert low == 0 if hits == 0 else tail(hits, count, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if hits == count else 1 - tail(hits + 1, count, high) == pytest.approx(0.025, rel=1e-6)


def test_a_line_is_the_weighted_least_squares() -> None:
    line, designs, targets, weights = Line(), [], [], []
    for step in range(1, 6):
        known = candidates(step)
        values = torch.randn(COUNT, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        line.learn(known, values)
        designs.append(np.stack([np.ones(COUNT), known.tokens.numpy(), known.target_tokens.numpy()], 1))
        targets.append(values.numpy())
        weights.append(np.full(COUNT, FORGET ** (5 - step)))
    root = np.sqrt(np.concatenate(weights))
    slow, *_ = np.linalg.lstsq(np.concatenate(designs) * root[:, None], np.concatenate(targets) * root, rcond=None)
    np.testing.assert_allclose(line.predict(known).numpy(), designs[-1] @ slow, rtol=1e-6, atol=1e-9)


def test_columns_that_are_equal_or_not_finite_do_no_harm() -> None:
    known = candidates(1)
    same = Line()
    same.learn(Candidates(known.rows, known.tokens, known.tokens), known.tokens.double())
    assert torch.allclose(same.predict(Candidates(known.rows, known.tokens, known.tokens)), known.tokens.double())
    column = torch.arange(100.0)
    column[known.rows[0]] = torch.nan
    line = Line(column_of(column), 1)
    line.learn(known, known.rows.double())
    screening = Screening(line, share=0.5)
    screened = screening.screen(2, known, known.rows, KEEP)
    assert screened.predicted[0].isnan() and not screened.ruled_out[0], "what cannot be predicted is scored"
    assert int(screened.ruled_out.sum()) == 15


def test_a_prescreen_that_misses_too_much_opens_up_to_the_exact_step() -> None:
    screening, sentences = Screening(LastScore(100), share=0.25, bound=0.1, seed=1), []
    known = candidates(0)
    values = known.tokens.double()
    screening.prescreen.learn(known, -values)
    for step in range(1, 61):
        _, screened, opened = one_step(screening, step, known, values)
        screening.prescreen.learn(known, -values)  # always the wrong way round
        sentences += [opened] if opened else []
    assert len(sentences) == 2 and "more than --prescreen-miss 0.1" in sentences[0] and "0.5" in sentences[0]
    assert screening.share == 1 and len(screened.scored) == COUNT
    assert [share for _, share in screening.history()] == [0.25, 0.5, 1.0]
    steps = [step for step, _ in screening.history()]
    assert steps == sorted(steps) and steps[0] == 1 < steps[1] < steps[2] < 61
    middle, low, high = screening.misses.of_run().shares
    assert 0 < low < middle <= high <= 1


def test_the_interval_of_a_run_covers_what_was_missed() -> None:
    """200 runs of 20 steps, each with 2 of 8 ruled-out candidates audited; 1 in 16 is missed."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(200):
        estimate, count = MissEstimate(1), 0
        for _ in range(20):
            wrong = draw.random(8) < 1 / 16
            count += int(wrong.sum())
            estimate.add(0, int(wrong[:2].sum()), 2, 8, KEEP)
        found = estimate.of_run()
        covered += found.low <= count <= found.high
    assert covered >= 0.95 * 200
