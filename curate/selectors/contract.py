"""Call a selector and check that what it returns keeps the contract of `Scores`.

Selectors come from other packages, too. A result of the wrong type, shape or range would otherwise fail far from its
cause, or train on wrong samples. Each error names the selector, its package, and what it returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import plugins
from ..errors import PluginError
from .base import CandidateBatch, Scores, Selector

SHOWN = 3
"""Number of values that a message shows."""


def checked_scores(selector: Selector, batch: CandidateBatch) -> Scores:
    """Return the scores of the candidates, after a check of types and shapes.

    Raises:
        PluginError: the selector failed, or what it returned is not one score per candidate.
    """
    with plugins.calls_into(type(selector), "score"):
        scores = selector.score(batch)
    wrong = _wrong(scores, batch)
    if wrong:
        raise PluginError(f"{_subject(selector, batch)} returned {wrong}. {_ADVICE}")
    return scores


def checked_update(selector: Selector, batch: CandidateBatch, kept: Tensor) -> None:
    """Update the memory of a selector; an error of a selector from another package names it."""
    with plugins.calls_into(type(selector), "update"):
        selector.update(batch, kept)


def no_tokens(selector: Selector, batch: CandidateBatch) -> PluginError:
    """Return the error for token masks that leave a kept candidate no token to train on."""
    return PluginError(f"{_subject(selector, batch)} left a kept candidate no token to train on. {_TUNE}")


def no_score(selector: Selector, batch: CandidateBatch, finite: int) -> PluginError:
    """Return the error for a step in which `finite` candidates could be measured and none got a score."""
    return PluginError(
        f"{_subject(selector, batch)} gave no candidate a score that is a number: all are NaN. The measurements of "
        f"{finite} candidates are finite, so the model and the learning rate are not the cause. {_TUNE}"
    )


def check_kept(selector: Selector, batch: CandidateBatch, scores: Scores, kept: Tensor) -> None:
    """Check the scores and weights of the kept candidates.

    Args:
        selector: the selector.
        batch: its candidates.
        scores: their scores.
        kept: (k,) int64, indices of the kept candidates.

    Raises:
        PluginError: a kept candidate has an infinite score, or the weights of the kept candidates are not finite,
            negative, or all zero.
    """
    total, subject = scores.total, _subject(selector, batch)
    if not total[kept].isfinite().all():
        raise PluginError(
            f"{subject} gave scores that are not finite to candidates that would be kept: {_values(total[kept])}. "
            f"{_TUNE} A selector gives NaN to a candidate that must not be kept."
        )
    if scores.weights is not None and len(kept):
        weights = scores.weights[kept]
        if not weights.isfinite().all():
            raise PluginError(f"{subject} gave weights that are not finite: {_values(weights)}. {_TUNE}")
        if (weights < 0).any():
            raise PluginError(
                f"{subject} gave negative weights: {_values(weights)}. Training would raise the loss of these "
                f"samples. {_TUNE}"
            )
        if not weights.any():
            raise PluginError(f"{subject} gave all kept samples the weight 0, so nothing would be learned. {_TUNE}")


_ADVICE = "Report this to its authors (curate.testing has laws for selectors), or use another --selector."
_TUNE = "Change its selector_args, or use another --selector."


def _subject(selector: Selector, batch: CandidateBatch) -> str:
    return f"In step {batch.step} the {plugins.origin(type(selector))}"


def _wrong(scores: Any, batch: CandidateBatch) -> str | None:
    """Return in words how a result differs from one score per candidate; None if it does not."""
    count = len(batch)
    if not isinstance(scores, Scores):
        return f"{describe(scores)} instead of a Scores"
    if (wrong := _wrong_values(scores.total, count)) is not None:
        return f"as total {wrong}"
    if not isinstance(scores.parts, Mapping):
        return f"as parts {describe(scores.parts)} instead of a mapping"
    for name, part in scores.parts.items():
        if (wrong := _wrong_values(part, count)) is not None:
            return f"as part {name!r} {wrong}"
    if scores.weights is not None and (wrong := _wrong_values(scores.weights, count)) is not None:
        return f"as weights {wrong}"
    return None if scores.token_masks is None else _wrong_masks(scores.token_masks, batch)


def _wrong_masks(masks: Any, batch: CandidateBatch) -> str | None:
    longest = int(batch.tokens.max())
    if not isinstance(masks, Tensor):
        return f"as token_masks {describe(masks)} instead of a tensor"
    if masks.dtype != torch.bool or masks.dim() != 2 or len(masks) != len(batch) or masks.shape[1] < longest:
        shape = f"{masks.dtype} of the shape {tuple(masks.shape)}"
        return f"as token_masks {shape} instead of torch.bool of the shape ({len(batch)}, {longest} or more)"
    return None


def _wrong_values(values: Any, count: int) -> str | None:
    if isinstance(values, Tensor) and values.shape == (count,) and not values.is_complex():
        return None
    return f"{describe(values)} instead of a tensor of {count} numbers, one for each candidate"


def describe(value: Any) -> str:
    """Return in a few words what a value is: its type, and the shape of a tensor or the length of a list."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _values(values: Tensor) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:SHOWN].double().tolist())
    rest = f", ... ({len(values)} values)" if len(values) > SHOWN else ""
    return shown + rest
