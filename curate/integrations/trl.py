"""TRL's SFTTrainer with a selector: three changed lines in a script of yours.

    from curate.integrations.trl import Selective, SelectiveSFTTrainer      # 1

    trainer = SelectiveSFTTrainer(                                           # 2
        model="Qwen/Qwen2.5-0.5B",
        args=SFTConfig(output_dir="out", per_device_train_batch_size=8),
        train_dataset=dataset,
        peft_config=LoraConfig(),
        selection=Selective("uds", candidates=64, store="store", name="my-run"),   # 3
    )
    trainer.train()

A step trains on as much as before: on the 8 best of 64. `curate query` then knows the run, with every candidate.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..version import pip_install
from .options import Selective
from .trainer import SelectiveMixin

try:
    from trl.trainer.sft_trainer import SFTTrainer
except ImportError as error:
    raise ImportError(f"curate.integrations.trl needs the package trl: {pip_install('trl')}.") from error

__all__ = ["Selective", "SelectiveSFTTrainer"]


class SelectiveSFTTrainer(SelectiveMixin, SFTTrainer):
    """`trl.SFTTrainer` that trains on what a selector keeps.

    Data, chat template, formatting function, masks, truncation, PEFT and quantisation, collator, loss, evaluation,
    callbacks and logging are TRL's. Refused by name: packing and padding-free batches, streams, images, FSDP, DeepSpeed
    and other ways of splitting a model or a text.

    Args:
        selection: how it selects.
        args, kwargs: SFTTrainer's own.
    """

    def __init__(self, *args: Any, selection: Selective, **kwargs: Any) -> None:
        super().__init__(*args, selection=selection, **kwargs)
        if self._is_vision_dataset:
            raise ConfigError("train_dataset has images, and selectors look at text alone.")
