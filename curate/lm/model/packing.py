"""Texts without their padding: all real tokens in one row, with positions that begin anew at every text.

Flash attention takes the texts' boundaries and never sees a padded position; other implementations build the block mask
from the positions (slow, but the same numbers, which is how this is tested).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that keep texts of one row apart; others (state spaces, convolutions) carry over from one to the
next."""


def can_pack(config: Any) -> bool:
    """Whether a model's layers keep texts of one row apart, and gain from it: flash attention and nothing else."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return is_flash_attention_requested(config) and kinds <= ATTENTION


@dataclass(frozen=True)
class Packed:
    """b texts as one row.

    Attributes:
        inputs: keyword arguments of the model.
        places: (n,) int64, where the n real tokens are in the flat padded batch; on the model's device.
        shape: (b, L).
    """

    inputs: dict[str, Any]
    places: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor) -> Packed:
        """Pack; with the mask on the CPU a GPU is not waited for."""
        device = input_ids.device
        mask = attention_mask.long()
        places = mask.flatten().nonzero()[:, 0]
        positions = (mask.cumsum(1) - 1).flatten()[places]
        lengths = mask.sum(1)
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32, non_blocking=True)
        longest = int(lengths.max())
        places = places.to(device, non_blocking=True)
        inputs = {
            "input_ids": input_ids.flatten()[places][None],
            "position_ids": positions.to(device, non_blocking=True)[None],
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        return cls(inputs, places, attention_mask.shape)

    def unpack(self, states: Tensor) -> Tensor:
        """(1, n, d) -> (b, L, d), zero where there was padding."""
        out = states.new_zeros(self.shape.numel(), states.shape[-1])
        return out.index_copy(0, self.places, states[0]).view(*self.shape, -1)
