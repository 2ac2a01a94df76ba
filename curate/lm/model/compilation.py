"""`torch.compile` on the part of the model that scoring and training share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .load import base_of


def compile_backbone(model: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> nn.Module:
    """Compile everything below the head, in place and for any batch shape; once adapters are on.

    In place, so that names in checkpoints stay and PEFT, DDP and the signals see the same module. Training and scoring
    are graphs of their own. Passes whose gradients are captured layer by layer run eagerly (`numerics.gradients`): a
    graph has no layers to listen at.
    """
    base_of(model).base_model.compile(dynamic=True, backend=backend)  # type: ignore[union-attr]
    return model
