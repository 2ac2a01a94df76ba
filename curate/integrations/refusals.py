"""What cannot go together with choosing, refused by name before anything has been loaded or trained."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, TrainingError
from ..runtime.distributed import size

SETTINGS = {
    "packing": "several samples become one row, and a selector keeps or leaves whole rows. Set packing=False",
    "padding_free": "all samples become one row, and a selector keeps or leaves whole rows. Set padding_free=False",
    "auto_find_batch_size": "what a step trains on is what is kept. Set per_device_train_batch_size yourself",
}
"""Boolean settings of a Trainer, and why not."""


def refuse_arguments(args: Any) -> None:
    """`ConfigError` for settings that do not go with choosing."""
    for name, why in SETTINGS.items():
        if getattr(args, name, False):
            raise ConfigError(f"{name}=True does not go with a selector: {why}.")


def refuse_parallelism(trainer: Any) -> None:
    """`ConfigError` for ways of sharing out a model that cannot be scored through."""
    refuse_arguments(trainer.args)
    if trainer.args.world_size != size():
        raise TrainingError(
            f"{size()} processes were launched, but the Trainer sees {trainer.args.world_size}: each would train "
            "alone. Launch as many as there are devices, or on CPUs set use_cpu=True."
        )
    if trainer.model_init is not None:
        raise ConfigError(
            "model_init makes the model anew when training begins, after the selector has looked into it: give model=."
        )
    for name, given in (
        ("FSDP", trainer.is_fsdp_enabled),
        ("DeepSpeed", trainer.is_deepspeed_enabled),
        ("nn.DataParallel", trainer.args.n_gpu > 1),
        ("tensor, context or sequence parallelism", _parallel(trainer.accelerator)),
    ):
        if given:
            raise ConfigError(
                f"{name} splits the model or its batches, which a selector cannot score through. Launch one process a "
                "device with torchrun (DDP), or use curate train --fsdp."
            )


def _parallel(accelerator: Any) -> bool:
    config = getattr(accelerator, "parallelism_config", None)
    return config is not None and any(getattr(config, f"{kind}_size", 1) > 1 for kind in ("tp", "cp", "sp", "dp_shard"))
