"""FSDP2 for a model that is trained through an adapter: its frozen layers are shared out, the adapter is everywhere.

Every process holds a part of each layer and gathers the whole when it comes to it. The adapter stays an ordinary tensor
on all processes and is trained as under DDP, so optimizer, checkpoints and per-sample gradients are those of any other
run, and a run can go on with another number of processes, sharded or not. Embeddings, head and norms stay whole, too:
signals need the head's matrix.

All processes must call the model equally often, for each call gathers layers from all of them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ...errors import ModelError
from ...log import LOGGER
from ...runtime.distributed import size
from .load import base_of


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Share out the frozen layers of a model over all processes, in place, and move the rest to `device`.

    Args:
        model: with an adapter, on the CPU: no device ever holds all of it.
        device: of this process.
    """
    base = base_of(model)
    backbone: nn.Module = base.base_model  # type: ignore[assignment]
    kinds = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in backbone.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ModelError(f"{type(base).__name__} does not say what its layers are, so --fsdp cannot share them out.")
    mesh = init_device_mesh(device.type, (size(),))
    inside = {parameter for layer in layers for parameter in layer.parameters() if not parameter.requires_grad}
    whole = set(model.parameters()) - inside
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(backbone, mesh=mesh, ignored_params=whole)
    held = sum(p.numel() * p.element_size() for p in inside) / 2**20
    LOGGER.info(f"{len(layers)} layers of {held:.0f} MiB are shared out over {size()} processes.")
    # DDP, which the Trainer wraps around, averages the adapter's gradients and must leave the rest alone.
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    model._ddp_params_and_buffers_to_ignore = [*frozen, *(name for name, _ in model.named_buffers())]  # type: ignore[assignment]
    return model.to(device)
