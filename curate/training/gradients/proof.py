"""Compare captured per-sample gradients with autograd's, for two texts, before they are relied on.

Sites assume that the rows of their inputs belong to the samples in order, that no other module uses their parameters,
and that a forward of experts may be replaced. No list of model families can assure this, but two texts show it: each
text's captured gradient must be what autograd gives for its loss alone, with the same dropout.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from ...lm.model.scoring_model import ScoringModel
from ...lm.tokens.batch import Batch, take_rows
from ...numerics.gradients import Blocks, CaptureError, GradientRequest, GradientResult


class Passes(Protocol):
    """Passes over texts, as `GradientPasses` has them."""

    scoring_model: ScoringModel
    measured: dict[str, nn.Parameter]

    def clear(self) -> None:
        """Clear the `.grad` of all parameters."""

    def seeded_dropout(self, step: int) -> AbstractContextManager[None]:
        """Seed dropout by the step."""

    def losses(self, batch: Batch) -> Tensor:
        """Return the loss of each text."""

    def captured(
        self, texts: Batch, request: GradientRequest, *, weights: bool = False
    ) -> tuple[Tensor, GradientResult]:
        """Return the losses and the requested quantities of texts."""


FULL = (1e-3, 1e-5, 1e-4)
"""For float32 and float64: how far gradients of a parameter may differ, relative to their own norm, and relative to the
norm of the whole gradient (rounding, where they cancel); and how far losses may differ, in nats per nat."""

HALF = (0.3, 0.01, 0.05)
"""The same for half precision, in which rounding also sends single tokens to other experts. Texts that were mixed up
differ by more: the gradients of two texts by about √2."""


def difference(passes: Passes, pair: Batch, step: int) -> str | None:
    """Return where captured gradients differ from autograd's, as the beginning of a sentence; None: nowhere.

    The `.grad` of the parameters is left in any state.

    Args:
        passes: the passes to try.
        pair: two texts, on the model's device.
        step: step whose dropout is used.
    """
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in passes.scoring_model.model.parameters())
    half = half or passes.scoring_model.autocast is not None
    own, whole, of_loss = HALF if half else FULL
    references = [_gradient_of(passes, pair, i, step) for i in range(2)]
    norms = [sum(float(g.float().square().sum()) for g in reference.values()) ** 0.5 for reference, _ in references]
    wrong: list[str] = []

    def compare(name: str, block: Tensor) -> Tensor:
        for (reference, _), norm, captured in zip(references, norms, block, strict=True):
            wanted = reference.pop(name, None)
            wanted = torch.zeros_like(captured) if wanted is None else wanted.float()
            if not float((captured - wanted).norm()) <= own * float(wanted.norm()) + whole * norm:
                wrong.append(name)
        return block

    try:
        passes.clear()
        with passes.seeded_dropout(step):
            losses, _ = passes.captured(pair, GradientRequest(transform=compare, norms=True))
    except CaptureError as error:
        return str(error)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        return f"they cannot be captured in this model ({type(error).__name__}: {str(error).splitlines()[0]})"
    for (reference, _), norm in zip(references, norms, strict=True):
        wrong += [name for name, gradient in reference.items() if not float(gradient.norm()) <= whole * norm]
    if wrong:
        return f"captured gradients of {wrong[0]} are not those of single texts"
    for _, loss in references:
        if not torch.allclose(losses, loss, rtol=of_loss, atol=of_loss):
            return "capturing changes the losses"
    alone = _losses_alone(passes, pair)
    if alone is not None and not torch.allclose(alone[0], alone[1], rtol=of_loss, atol=of_loss):
        return "the loss of a text depends on the texts in its batch"
    return None


def _gradient_of(passes: Passes, pair: Batch, text: int, step: int) -> tuple[Blocks, Tensor]:
    """Return autograd's gradient of one text's loss in a pass over both, by parameter, and the losses (2,)."""
    passes.clear()
    with passes.seeded_dropout(step):
        losses = passes.losses(pair)
        torch.autograd.backward(losses[text])
    return {name: p.grad for name, p in passes.measured.items() if p.grad is not None}, losses.detach()


def _losses_alone(passes: Passes, pair: Batch) -> tuple[Tensor, Tensor] | None:
    """Return the losses (2,) in one pass and in a pass each, in evaluation mode."""
    rows = torch.arange(2, device=pair["input_ids"].device)
    with passes.scoring_model.eval_mode(refresh=False), torch.enable_grad():
        both = passes.losses(pair).detach()
        single = torch.cat([passes.losses(take_rows(pair, row[None])).detach() for row in rows])
    return both, single
