"""The laws of batch selectors: what `curate train` relies on, and resuming with it.

Candidates are made up, but measured as those of a run are: by the selector's own signals, on hidden states under a
small random head.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..numerics.head import Head
from ..selectors import CandidateBatch, RunInfo, Scores, Selector, choose, selector_class
from ..signals import Probe
from .checks import check_all, hold

FACTS = RunInfo(vocab_size=50, max_length=16, seed=5, keep=4)
COUNT, WIDTH = 12, 8

Make = Callable[[], Selector]
"""Makes the selector under test, anew each time."""


def check_selector(selector: str | type[Selector], args: Mapping[str, Any] | None = None) -> None:
    """Hold a batch selector to every law.

    Args:
        selector: the class, or the name that it is known by.
        args: its own arguments.

    Raises:
        AssertionError: a law does not hold; it is named, and what was seen is told.
    """
    kind = selector_class(selector) if isinstance(selector, str) else selector
    check_all(SELECTOR_LAWS, lambda: kind(info=FACTS, **(args or {})), kind.__name__)


def made_up_candidates(selector: Selector, step: int = 1, count: int = COUNT) -> CandidateBatch:
    """Candidates of a step, with whatever the selector asks for; the same for the same step."""
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
    return CandidateBatch(step, positions, probe.mask.sum(1), values, features, pairs, scalars)


def _probe(generator: torch.Generator, count: int) -> Probe:
    """Texts of different lengths, the second half of each with targets."""
    head = Head(torch.randn(FACTS.vocab_size, WIDTH, generator=generator))
    hidden = torch.randn(count, FACTS.max_length, WIDTH, generator=generator)
    lengths = torch.randint(4, FACTS.max_length + 1, (count, 1), generator=generator)
    labels = torch.randint(0, FACTS.vocab_size, (count, FACTS.max_length), generator=generator)
    places = torch.arange(FACTS.max_length)
    return Probe(hidden, head, places < lengths, labels.where((places < lengths) & (places >= lengths // 2), -100))


def _keep(selector: Selector, steps: range) -> list[list[int]]:
    """Rows kept in each step."""
    kept = []
    for step in steps:
        batch = made_up_candidates(selector, step)
        rows = choose(selector.score(batch).total, FACTS.keep)
        selector.update(batch, rows)
        kept.append(rows.tolist())
    return kept


def _same(one: Tensor, other: Tensor) -> bool:
    """NaN where NaN is, and the same numbers elsewhere."""
    return torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-9, equal_nan=True)


def _keywords(make: Make) -> None:
    parameters = list(inspect.signature(type(make()).__init__).parameters.values())[1:]
    hold(parameters and parameters[0].name == "info", "the first parameter of __init__ is not info")
    for parameter in parameters:
        hold(parameter.kind is parameter.KEYWORD_ONLY, f"'{parameter.name}' can be given without its name")
        hold(
            parameter.name == "info" or parameter.default is not parameter.empty,
            f"'{parameter.name}' has no default, so the selector's name alone does not make one",
        )


def _no_parameters(make: Make) -> None:
    names = [name for name, _ in make().named_parameters()]
    hold(not names, f"{', '.join(names)} would be trained and saved as weights: use register_buffer")


def _moves(make: Make) -> None:
    selector = make()
    try:
        moved = selector.to(torch.device("cpu"))
    except TypeError as error:
        raise AssertionError(f"it cannot be moved to a device ({error}): is 'to' an attribute of its own?") from None
    hold(moved is selector, "`to` does not return the selector")


def _scores(make: Make) -> None:
    selector = make()
    scores = selector.score(made_up_candidates(selector))
    hold(isinstance(scores, Scores), f"score returned {type(scores).__name__}, not Scores")
    hold(scores.total.shape == (COUNT,), f"total has the shape {tuple(scores.total.shape)} for {COUNT} candidates")
    hold(scores.total.is_floating_point(), f"total is {scores.total.dtype}: NaN must be possible")
    finite = int(scores.total.isfinite().sum())
    hold(finite >= FACTS.keep, f"{finite} of {COUNT} have a finite score, and {FACTS.keep} are to be kept")
    for name, part in scores.parts.items():
        hold(part.shape == (COUNT,), f"the part '{name}' has the shape {tuple(part.shape)}")
    if scores.weights is not None:
        kept = scores.weights[choose(scores.total, FACTS.keep)]
        hold(scores.weights.shape == (COUNT,), f"weights have the shape {tuple(scores.weights.shape)}")
        hold(kept.isfinite().all() and (kept >= 0).all() and kept.sum() > 0, f"the kept weigh {kept.tolist()}")


def _reads(make: Make) -> None:
    selector = make()
    _keep(selector, range(1, 4))
    before = copy.deepcopy(selector.state_dict())
    first, second = (selector.score(made_up_candidates(selector, 4)).total for _ in range(2))
    hold(_same(first, second), "the same candidates got other scores the second time")
    changed = [name for name, value in selector.state_dict().items() if not torch.equal(value, before[name])]
    hold(not changed, f"score changed {', '.join(changed)}: that is for update to do")


def _resumes(make: Make) -> None:
    whole = _keep(make(), range(1, 9))
    first, second = make(), make()
    begun = _keep(first, range(1, 5))
    state = first.state_dict()
    for name, value in state.items():
        hold(isinstance(value, Tensor), f"'{name}' in the state is no tensor, and checkpoints hold tensors alone")
    second.load_state_dict({name: value.clone() for name, value in state.items()})
    gone_on = _keep(second, range(5, 9))
    hold(begun + gone_on == whole, f"after loading, steps 5 to 8 kept {gone_on}, and without a stop {whole[4:]}")


def _repeats(make: Make) -> None:
    one, other = _keep(make(), range(1, 5)), _keep(make(), range(1, 5))
    hold(one == other, f"made and run twice, it kept {one} and {other}: take chance from (info.seed, step, position)")


def _order(make: Make) -> None:
    selector = make()
    _keep(selector, range(1, 4))
    batch = made_up_candidates(selector, 4)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    straight, shuffled = selector.score(batch).total, selector.score(batch.rows(order)).total
    hold(_same(straight[order], shuffled), "the same candidates in another order got other scores")


def _few(make: Make) -> None:
    for count in (1, FACTS.keep - 1):
        selector = make()
        batch = made_up_candidates(selector, count=count)
        rows = choose(selector.score(batch).total, FACTS.keep)
        selector.update(batch, rows)
        hold(len(rows) == count, f"of {count} candidates, fewer than are kept, it scored {len(rows)}")


def _nan(make: Make) -> None:
    selector, bad = make(), 3
    batch = made_up_candidates(selector)
    for value in batch.values.values():
        value[bad] = torch.nan
    for value in batch.pairs.values():
        value[bad] = value[:, bad] = torch.nan
    total = selector.score(batch).total
    others = torch.cat([total[:bad], total[bad + 1 :]])
    hold(others.isfinite().sum() >= FACTS.keep, "one sample that is not finite took the scores of the others with it")


SELECTOR_LAWS: dict[str, Callable[[Make], None]] = {
    "it is made of keyword arguments, info first, that all have defaults": _keywords,
    "it has no parameters": _no_parameters,
    "it moves between devices as every module does": _moves,
    "as many as are kept get a score, and every candidate every part": _scores,
    "scoring reads the state and never writes it": _reads,
    "a saved and loaded selector goes on alike": _resumes,
    "it keeps the same when it is run again": _repeats,
    "the order of the candidates is nothing": _order,
    "fewer candidates than are kept are kept all": _few,
    "a candidate that is not finite leaves the others alone": _nan,
}
"""What every batch selector does -> the check, which makes selectors as it likes."""
