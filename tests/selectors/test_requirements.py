"""The requirements of a selector, computed from its arguments alone, are those of the selector that is built."""

from __future__ import annotations

from typing import Any

import pytest

from curate.errors import ConfigError
from curate.selectors import (
    SELECTORS,
    CandidateBatch,
    GradientNeeds,
    Requirements,
    RunInfo,
    Scores,
    Selector,
    make_selector,
    requirements_of,
)
from curate.signals import Loss
from curate.testing import SELECTOR_LAWS, SelectorFactory

INFO = RunInfo(vocab_size=50, max_length=16, keep=4, total_steps=5000)
LAW = SELECTOR_LAWS["its requirements are those of the selector that is built"]
MATCHING = GradientNeeds(metric="adam", target=True, gram=True)
UDS = frozenset({"utility", "sketch"})
CASES: list[tuple[str, dict[str, Any], Requirements]] = [
    ("uds", {}, Requirements(UDS)),
    ("uds", {"memory_policy": "per_cluster", "memory": 5}, Requirements(UDS, ("cluster",))),
    ("uds", {"greedy": True, "norm": "frobenius"}, Requirements(UDS)),
    ("max_grad", {}, Requirements(frozenset({"grad_norm"}))),
    ("max_grad", {"approximation": "token_diagonal"}, Requirements(frozenset({"grad_norm"}))),
    ("max_grad", {"approximation": "parameters"}, Requirements(gradients=GradientNeeds(norms=True))),
    ("filter_weight", {}, Requirements(gradients=MATCHING)),
    ("filter_weight", {"metric": "P", "warmup_steps": 7}, Requirements(gradients=MATCHING)),
    (
        "filter_weight",
        {"metric": "P2", "w_cap": 0.5},
        Requirements(gradients=GradientNeeds(metric="adam2", target=True, gram=True)),
    ),
    (
        "greats",
        {"interaction": 3.0},
        Requirements(gradients=GradientNeeds("rate", target=True, gram=True, gram_metric="rate2")),
    ),
    (
        "opus",
        {"sketch": 8, "temperature": 0},
        Requirements(gradients=GradientNeeds("opus", target=True, gram=True, gram_metric="opus2", sketch=8)),
    ),
    ("rho", {}, Requirements(frozenset({"loss"}), ("reference_loss",))),
    ("rsr", {"max_rank": 0}, Requirements(frozenset({"rank_surprisal", "loss"}))),
    ("q_tuning", {}, Requirements(frozenset({"loss", "entropy", "token_losses"}))),
    ("q_tuning", {"tokens": 1.0}, Requirements(frozenset({"loss", "entropy"}))),
    ("slap", {"diversity": 0}, Requirements(frozenset({"loss", "head_gradient"}))),
    ("max_loss", {}, Requirements(frozenset({"loss"}))),
    ("random", {}, Requirements()),
    ("full", {}, Requirements()),
]


@pytest.mark.parametrize(("name", "args", "required"), CASES, ids=[f"{name} {args}" for name, args, _ in CASES])
def test_requirements_follow_from_the_arguments(name: str, args: dict[str, Any], required: Requirements) -> None:
    assert requirements_of(name, args) == required
    assert required.differences(make_selector(name, args, INFO)) == []
    assert required.target == (name in ("filter_weight", "greats", "opus"))
    LAW(SelectorFactory(SELECTORS[name], args))


def test_every_selector_of_ours_is_among_the_cases() -> None:
    assert {name for name, _, _ in CASES} == SELECTORS.keys()


class Wrong(Selector):
    """Has signals, features and gradients that its requirements do not state, each on request."""

    def __init__(self, *, info: RunInfo, wrong: str = "signals") -> None:
        super().__init__(info=info)
        if wrong == "signals":
            self.signals = {"loss": Loss()}
        elif wrong == "features":
            self.features = ("utility",)
        else:
            self.gradients = GradientNeeds(norms=True, warmup_steps=0 if wrong == "gradients" else 5)

    def score(self, batch: CandidateBatch) -> Scores:
        return Scores(batch.tokens.double())


class StatesNorms(Wrong):
    """States gradient norms, without the warm-up steps of the run."""

    gradients = GradientNeeds(norms=True)


@pytest.mark.parametrize(
    ("wrong", "difference"),
    [
        ("signals", r"signals \['loss'\] instead of \[\]"),
        ("features", r"features \['utility'\] instead of \[\]"),
        ("gradients", r"gradients GradientNeeds\(.*norms=True.*\) instead of None"),
    ],
)
def test_a_selector_with_wrong_requirements_is_refused_by_name_and_module(
    monkeypatch: pytest.MonkeyPatch, wrong: str, difference: str
) -> None:
    monkeypatch.setitem(SELECTORS, "mine", Wrong)
    sentence = rf"The requirements of selector 'mine' \(module {__name__}\) are wrong: it has {difference}\. Override"
    with pytest.raises(ConfigError, match=sentence):
        make_selector("mine", {"wrong": wrong}, INFO)
    with pytest.raises(AssertionError, match=difference):
        LAW(SelectorFactory(Wrong, {"wrong": wrong}))


def test_warmup_steps_may_depend_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "mine", StatesNorms)
    assert make_selector("mine", {"wrong": "warmup"}, INFO).gradients == GradientNeeds(norms=True, warmup_steps=5)
    LAW(SelectorFactory(StatesNorms, {"wrong": "warmup"}))


class Narrow(Selector):
    """Overrides `requirements` without the argument of its constructor."""

    def __init__(self, *, info: RunInfo, aim: float = 1.0) -> None:
        super().__init__(info=info)

    @classmethod
    def requirements(cls) -> Requirements:  # type: ignore[override]
        return Requirements()


def test_requirements_that_do_not_accept_the_arguments_break_the_law() -> None:
    LAW(SelectorFactory(Narrow))
    with pytest.raises(AssertionError, match=r"does not accept the arguments .*'aim'"):
        LAW(SelectorFactory(Narrow, {"aim": 2.0}))
