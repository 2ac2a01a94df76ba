"""Laws of batch selectors, on which `curate train` and its resume rely.

The candidates are made up, but they are measured as in a run: by the selector's own signals, on hidden states and a
small random head.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..numerics.head import Head
from ..numerics.losses import IGNORE
from ..selectors import CandidateBatch, RunInfo, Scores, Selector, choose, selector_class
from ..signals import Probe
from .checks import check_all, expect

INFO = RunInfo(vocab_size=50, max_length=16, seed=5, keep=4)
COUNT, WIDTH = 12, 8


@dataclass(frozen=True)
class SelectorFactory:
    """Builds the selector under test, a new one with each call.

    Attributes:
        kind: class of the selector.
        args: arguments of the selector, without `info`.
    """

    kind: type[Selector]
    args: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Selector:
        """Build a selector."""
        return self.kind(info=INFO, **self.args)


def check_selector(selector: str | type[Selector], args: Mapping[str, Any] | None = None) -> None:
    """Check that a batch selector satisfies every law.

    Args:
        selector: class of the selector, or its name.
        args: arguments of the selector, without `info`.

    Raises:
        AssertionError: a law is broken; the message has its sentence and the values observed.
    """
    kind = selector_class(selector) if isinstance(selector, str) else selector
    check_all(SELECTOR_LAWS, SelectorFactory(kind, args or {}), kind.__name__)


def made_up_candidates(selector: Selector, step: int = 1, count: int = COUNT) -> CandidateBatch:
    """Return candidates of a step, with everything that the selector needs; the same step gives the same candidates."""
    generator = torch.Generator().manual_seed(step)
    probe = _probe(generator, count)
    values = {name: signal(probe) for name, signal in selector.signals.items()}
    features = {name: torch.randint(0, 3, (count,), generator=generator) for name in selector.features}
    gradients = torch.randn(count, 20, generator=generator)
    pairs: dict[str, Tensor] = {}
    scalars = {"learning_rate": 0.1}
    if selector.gradients is not None:
        target = gradients.mean(0)
        values |= {"alignment": gradients @ target, "grad_norm": gradients.norm(dim=1), "loss": probe.loss}
        pairs["gram"] = gradients @ gradients.T
        scalars["target_square"] = float(target.square().sum())
    positions = torch.randperm(1000, generator=generator)[:count]
    target_tokens = (probe.targets != IGNORE).sum(1)
    return CandidateBatch(step, positions, probe.mask.sum(1), values, features, pairs, scalars, target_tokens)


def _probe(generator: torch.Generator, count: int) -> Probe:
    """Return hidden states of texts of different lengths; the tokens of their second halves are targets."""
    head = Head(torch.randn(INFO.vocab_size, WIDTH, generator=generator))
    hidden = torch.randn(count, INFO.max_length, WIDTH, generator=generator)
    lengths = torch.randint(4, INFO.max_length + 1, (count, 1), generator=generator)
    labels = torch.randint(0, INFO.vocab_size, (count, INFO.max_length), generator=generator)
    index = torch.arange(INFO.max_length)
    return Probe(hidden, head, index < lengths, labels.where((index < lengths) & (index >= lengths // 2), -100))


def _keep(selector: Selector, steps: range) -> list[list[int]]:
    """Select in these steps, with updates of the memory, and return the indices kept in each."""
    kept = []
    for step in steps:
        batch = made_up_candidates(selector, step)
        rows = choose(selector.score(batch).total, INFO.keep, batch.chances(INFO.seed))
        selector.update(batch, rows)
        kept.append(rows.tolist())
    return kept


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors agree to 1e-6, with NaN at the same indices."""
    return torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-9, equal_nan=True)


def _keywords(factory: SelectorFactory) -> None:
    parameters = list(inspect.signature(type(factory()).__init__).parameters.values())[1:]
    expect(parameters and parameters[0].name == "info", "the first parameter of __init__ is not info")
    for parameter in parameters:
        expect(parameter.kind is parameter.KEYWORD_ONLY, f"'{parameter.name}' can be given without its name")
        expect(
            parameter.name == "info" or parameter.default is not parameter.empty,
            f"'{parameter.name}' has no default, so the selector cannot be built from its name alone",
        )


def _requirements(factory: SelectorFactory) -> None:
    try:
        stated = factory.kind.requirements(**factory.args)
    except TypeError as error:
        raise AssertionError(f"requirements does not accept the arguments of the constructor ({error})") from None
    differences = stated.differences(factory())
    expect(
        not differences,
        f"it has {'; '.join(differences)}: override requirements, or set signals, features and gradients as class "
        "attributes",
    )


def _no_parameters(factory: SelectorFactory) -> None:
    names = [name for name, _ in factory().named_parameters()]
    expect(not names, f"{', '.join(names)} would be trained and saved as weights: use register_buffer instead")


def _moves(factory: SelectorFactory) -> None:
    selector = factory()
    try:
        moved = selector.to(torch.device("cpu"))
    except TypeError as error:
        raise AssertionError(
            f"it cannot be moved to a device ({error}): does it have an attribute 'to' of its own?"
        ) from None
    expect(moved is selector, "`to` does not return the selector")


def _scores(factory: SelectorFactory) -> None:
    selector = factory()
    scores = selector.score(made_up_candidates(selector))
    expect(isinstance(scores, Scores), f"score returned {type(scores).__name__}, not Scores")
    expect(scores.total.shape == (COUNT,), f"total has the shape {tuple(scores.total.shape)} for {COUNT} candidates")
    expect(scores.total.is_floating_point(), f"total is {scores.total.dtype}: NaN must be possible")
    finite = int(scores.total.isfinite().sum())
    expect(finite >= INFO.keep, f"{finite} of {COUNT} candidates have a finite score, but {INFO.keep} must be kept")
    for name, part in scores.parts.items():
        expect(part.shape == (COUNT,), f"the part '{name}' has the shape {tuple(part.shape)}")
    if scores.weights is not None:
        kept = scores.weights[choose(scores.total, INFO.keep)]
        expect(scores.weights.shape == (COUNT,), f"weights have the shape {tuple(scores.weights.shape)}")
        expect(
            kept.isfinite().all() and (kept >= 0).all() and kept.sum() > 0,
            f"weights of the kept samples are {kept.tolist()}",
        )


def _reads(factory: SelectorFactory) -> None:
    selector = factory()
    _keep(selector, range(1, 4))
    before = copy.deepcopy(selector.state_dict())
    first, second = (selector.score(made_up_candidates(selector, 4)).total for _ in range(2))
    expect(_same(first, second), "the same candidates got other scores in a second call")
    changed = [name for name, value in selector.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, f"score changed {', '.join(changed)}: only update may do this")


def _resumes(factory: SelectorFactory) -> None:
    whole = _keep(factory(), range(1, 9))
    first, second = factory(), factory()
    before = _keep(first, range(1, 5))
    state = first.state_dict()
    for name, value in state.items():
        expect(isinstance(value, Tensor), f"'{name}' in the state is not a tensor, but checkpoints hold only tensors")
    second.load_state_dict({name: value.clone() for name, value in state.items()})
    after = _keep(second, range(5, 9))
    expect(before + after == whole, f"after loading, steps 5 to 8 kept {after}, but without a stop {whole[4:]}")


def _repeats(factory: SelectorFactory) -> None:
    one, other = _keep(factory(), range(1, 5)), _keep(factory(), range(1, 5))
    expect(
        one == other, f"two equal runs kept {one} and {other}: derive random numbers from (info.seed, step, position)"
    )


def _order(factory: SelectorFactory) -> None:
    selector = factory()
    _keep(selector, range(1, 4))
    batch = made_up_candidates(selector, 4)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    straight, shuffled = selector.score(batch).total, selector.score(batch.rows(order)).total
    expect(_same(straight[order], shuffled), "the same candidates in another order got other scores")


def _few(factory: SelectorFactory) -> None:
    for count in (1, INFO.keep - 1):
        selector = factory()
        batch = made_up_candidates(selector, count=count)
        rows = choose(selector.score(batch).total, INFO.keep)
        selector.update(batch, rows)
        expect(len(rows) == count, f"of {count} candidates, fewer than a step keeps, only {len(rows)} were kept")


def _nan(factory: SelectorFactory) -> None:
    selector, bad = factory(), 3
    batch = made_up_candidates(selector)
    for value in batch.values.values():
        value[bad] = torch.nan
    for value in batch.pairs.values():
        value[bad] = value[:, bad] = torch.nan
    total = selector.score(batch).total
    others = torch.cat([total[:bad], total[bad + 1 :]])
    expect(
        others.isfinite().sum() >= INFO.keep,
        "one candidate that is not finite made scores of the others not finite, too",
    )


SELECTOR_LAWS: dict[str, Callable[[SelectorFactory], None]] = {
    "its constructor takes keyword arguments only, info first, and all others have defaults": _keywords,
    "its requirements are those of the selector that is built": _requirements,
    "it has no parameters": _no_parameters,
    "it can be moved to a device like every module": _moves,
    "at least as many candidates as are kept get a score, and every part has one value per candidate": _scores,
    "scoring reads the memory and never writes it": _reads,
    "after saving and loading it continues as if it had not been stopped": _resumes,
    "a second run keeps the same samples": _repeats,
    "the scores do not depend on the order of the candidates": _order,
    "if there are fewer candidates than a step keeps, all are kept": _few,
    "a candidate that is not finite leaves the other scores finite": _nan,
}
"""Sentence of a law -> function that checks it with selectors of a factory."""
