"""Derivatives of the losses of a text's tokens along directions in weight space, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...lm.model.scoring_model import ScoringModel
from ...numerics.losses import IGNORE


class NotDifferentiable(Exception):
    """The model has an operation without a forward-mode derivative; the message is the reason in a few words."""


class _TokenLosses(nn.Module):
    """The losses of a text's tokens as a function of the model's weights."""

    def __init__(self, scoring_model: ScoringModel) -> None:
        super().__init__()
        self.model = scoring_model.model
        self._scoring_model = scoring_model

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Return ℓ_t of the T target tokens, (T,) float32, from one text, (1, L) each."""
        hidden = self._scoring_model.hidden(input_ids, torch.ones_like(input_ids))[0, :-1]
        wanted = labels[0, 1:] != IGNORE
        logits = self._scoring_model.project(hidden[wanted])
        return nn.functional.cross_entropy(logits, labels[0, 1:][wanted], reduction="none")


def token_losses_along(scoring_model: ScoringModel, row: Mapping[str, Any], directions: Mapping[str, Tensor]) -> Tensor:
    """Return (1 / T) d/dε ℓ_t(θ + ε H_q) at ε = 0 for the T target tokens of a text: (T, Q) float64 on the CPU.

    Cost: one forward pass for each direction, with tangents: about two passes. Memory: that of a forward pass with
    attention that forms its weights, L² numbers a head.

    Args:
        scoring_model: the model.
        row: the text, `input_ids` and `labels` (L,).
        directions: H by parameter name, (Q, *s).

    Raises:
        NotDifferentiable: an operation of the model has no forward-mode derivative.
    """
    device = scoring_model.head.weight.device
    losses = _TokenLosses(scoring_model)
    values = dict(losses.named_parameters())
    moved = {name: values[f"model.{name}"].detach() for name in directions}
    inputs = tuple(torch.as_tensor(row[key], device=device)[None] for key in ("input_ids", "labels"))

    def of(weights: dict[str, Tensor]) -> Tensor:
        named = {f"model.{name}": weight for name, weight in weights.items()}
        found: Tensor = torch.func.functional_call(losses, named, inputs)
        return found

    columns = []
    with scoring_model.eval_mode(refresh=False), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        for query in range(len(next(iter(directions.values())))):
            tangents = {name: h[query].to(moved[name]) for name, h in directions.items()}
            try:
                column = torch.func.jvp(of, (moved,), (tangents,))[1]
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
                raise NotDifferentiable(
                    f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.120}"
                ) from None
            columns.append(column.detach().double().cpu() / len(column))
    return torch.stack(columns, 1)
