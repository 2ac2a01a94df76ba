"""Find the language model under the wrappers of a loop, and make the scoring model of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from ..errors import ModelError
from ..lm.model.scoring_model import ScoringModel, make_scoring_model

WRAPPERS = ("_orig_mod", "_original_module", "module")
"""Names of the submodule with the wrapped model: in torch.compile, in Fabric, and in DDP and similar wrappers."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the transformers or PEFT model under compilers and data-parallel wrappers.

    Raises:
        ModelError: the weights are sharded over processes.
    """
    while True:
        if isinstance(model, (FullyShardedDataParallel, FSDPModule)) or any(
            hasattr(parameter, "ds_id") for parameter in model.parameters()
        ):
            raise ModelError(
                "The model's weights are sharded over processes (FSDP, DeepSpeed ZeRO-3), and scoring with sharded "
                "weights is not supported here. Use DDP, or curate train --fsdp."
            )
        inner = next((child for name in WRAPPERS if (child := model._modules.get(name)) is not None), None)
        if inner is None:
            return model
        model = inner


def scoring_model_of(model: nn.Module, autocast: torch.dtype | None) -> ScoringModel:
    """Return the scoring model of a causal language model, on which signals are measured.

    Args:
        model: the model, with or without wrappers.
        autocast: precision for hidden states; None: that of the weights.

    Raises:
        ModelError: the model is not a causal language model of transformers, or its weights are sharded.
    """
    model = unwrap(model)
    base: Any = getattr(model, "get_base_model", lambda: model)()
    if not hasattr(base, "get_output_embeddings") or not hasattr(base, "config"):
        raise ModelError(
            f"{type(model).__name__} is not a causal language model of transformers, nor a PEFT model of one, and "
            "signals need such a model. Give the model itself, not a module around it."
        )
    return make_scoring_model(model, autocast=autocast)
