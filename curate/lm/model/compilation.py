"""Apply `torch.compile` to the part of the model that scoring and training share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .load import backbone_of


def compile_backbone(model: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> nn.Module:
    """Compile everything below the head, in place and for any batch shape. Call it after adapters are added.

    Compilation is in place, so that names in checkpoints stay the same, and PEFT, DDP and the signals see the same
    module. Training and scoring have separate graphs. Passes that capture gradients layer by layer run eagerly
    (`numerics.gradients`), because a compiled graph has no layers to attach hooks to.
    """
    backbone_of(model).compile(dynamic=True, backend=backend)
    return model
