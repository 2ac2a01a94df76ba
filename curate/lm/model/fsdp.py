"""FSDP2 for a model that trains an adapter: the frozen layers are sharded, the adapter is replicated.

Every process holds a part of each layer and gathers the whole layer when the forward pass reaches it. The adapter stays
an ordinary tensor on all processes and is trained as with DDP. So the optimizer, the checkpoints and the per-sample
gradients are the same as in any other run, and a run can resume with another number of processes, sharded or not.
Embeddings, head and norms are also replicated, because signals need the head's matrix.

All processes must call the model equally often, because each call gathers layers from all of them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ...errors import ModelError
from ...log import LOGGER
from ...runtime.distributed import size
from .load import backbone_of, base_of


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Shard the frozen layers of a model over all processes, in place, and move the rest to `device`.

    Args:
        model: model with an adapter, on the CPU; no device ever holds all of it.
        device: device of this process.

    Raises:
        ModelError: the model class does not declare its layers.
    """
    base = base_of(model)
    backbone = backbone_of(model)
    layer_classes = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in backbone.modules() if type(module).__name__ in layer_classes]
    if not layers:
        raise ModelError(
            f"--fsdp cannot shard {type(base).__name__}: the class does not name its layers (_no_split_modules). "
            "Train without --fsdp."
        )
    mesh = init_device_mesh(device.type, (size(),))
    sharded = {parameter for layer in layers for parameter in layer.parameters() if not parameter.requires_grad}
    replicated = set(model.parameters()) - sharded
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=replicated)
    fully_shard(backbone, mesh=mesh, ignored_params=replicated)
    total = sum(p.numel() * p.element_size() for p in sharded) / 2**20
    LOGGER.info(f"{len(layers)} layers, {total:.0f} MiB in total, are sharded over {size()} processes.")
    # The Trainer wraps the model in DDP. DDP averages the adapter's gradients and must ignore all other parameters.
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    model._ddp_params_and_buffers_to_ignore = [*frozen, *(name for name, _ in model.named_buffers())]  # type: ignore[assignment]
    return model.to(device)
