"""TRL's SFTTrainer with a selector: three lines of a script change.

    from curate.integrations.trl import Selective, SelectiveSFTTrainer      # 1

    trainer = SelectiveSFTTrainer(                                           # 2
        model="Qwen/Qwen2.5-0.5B",
        args=SFTConfig(output_dir="out", per_device_train_batch_size=8),
        train_dataset=dataset,
        peft_config=LoraConfig(),
        selection=Selective("uds", candidates=64, store="store", name="my-run"),   # 3
    )
    trainer.train()

A step trains on as many samples as before: the 8 best of 64. `curate query` then finds the run, with every candidate.
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
    """`trl.SFTTrainer` that trains on the samples that a selector keeps.

    Data, chat template, formatting function, masks, truncation, PEFT and quantisation, collator, loss, evaluation,
    callbacks and logging are TRL's. These raise an error that names them: packing and padding-free batches, streams,
    images, FSDP, DeepSpeed and other ways to split a model or a text.

    Args:
        args: positional arguments of SFTTrainer.
        selection: options of the selection.
        kwargs: keyword arguments of SFTTrainer.

    Raises:
        ConfigError: see `SelectiveMixin`; also if the data has images.
    """

    def __init__(self, *args: Any, selection: Selective, **kwargs: Any) -> None:
        super().__init__(*args, selection=selection, **kwargs)
        if self._is_vision_dataset:
            raise ConfigError("train_dataset has images, but selectors score text only. Give a dataset without images.")
