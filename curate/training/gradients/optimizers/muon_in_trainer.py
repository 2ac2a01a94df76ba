"""Muon as the optimizer of a run: the Trainer does not know its name, but takes its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ....errors import ConfigError

NAME = "muon"


def placeholder(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return what `TrainingArguments` gets for the optimizer, whose own choice is then not used."""
    return {"optim": "adamw_torch"} if arguments.get("optim") == NAME else {}


def of(arguments: Mapping[str, Any], model: nn.Module) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Return the class and the settings of Muon if a run asks for it, else None.

    A step has the root mean square of AdamW's (`adjust_lr_fn="match_rms_adamw"`), so learning rates of AdamW hold.

    Raises:
        ConfigError: a trained parameter is no matrix.
    """
    if arguments.get("optim") != NAME:
        return None
    others = [name for name, p in model.named_parameters() if p.requires_grad and p.dim() != 2]
    if others:
        raise ConfigError(
            f"--optim muon trains matrices only, and {len(others)} trained parameters are none, such as {others[0]}. "
            "Train a LoRA adapter of linear layers, or use another optimizer."
        )
    rate = float(arguments.get("learning_rate", 5e-5))
    return torch.optim.Muon, {"lr": rate, "adjust_lr_fn": "match_rms_adamw"}
