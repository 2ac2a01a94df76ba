"""Pack texts without padding: all real tokens in one row, with positions that start from 0 at every text.

Flash attention receives the boundaries of the texts and never computes a padded position. Other implementations build
the block mask from the positions. That is slow but gives the same numbers, so the tests compare against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types that keep the texts of one row separate. Others (state spaces, convolutions) carry state from one text to
the next."""


def can_pack(config: Any) -> bool:
    """Return whether packing keeps texts separate and is faster: the model has flash attention and no other layers."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return is_flash_attention_requested(config) and kinds <= ATTENTION


@dataclass(frozen=True)
class Packed:
    """A batch of b texts, packed into one row.

    Attributes:
        inputs: keyword arguments for the model.
        indices: (n,) int64, indices of the n real tokens in the flattened padded batch; on the model's device.
        shape: shape (b, L) of the padded batch.
    """

    inputs: dict[str, Any]
    indices: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor) -> Packed:
        """Pack a padded batch. A mask on the CPU avoids waiting for the GPU."""
        device = input_ids.device
        mask = attention_mask.long()
        indices = mask.flatten().nonzero()[:, 0]
        positions = (mask.cumsum(1) - 1).flatten()[indices]
        lengths = mask.sum(1)
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32, non_blocking=True)
        longest = int(lengths.max())
        indices = indices.to(device, non_blocking=True)
        inputs = {
            "input_ids": input_ids.flatten()[indices][None],
            "position_ids": positions.to(device, non_blocking=True)[None],
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        return cls(inputs, indices, attention_mask.shape)

    def unpack(self, states: Tensor) -> Tensor:
        """Return packed states (1, n, d) as a padded batch (b, L, d), zero at padded positions."""
        out = states.new_zeros(self.shape.numel(), states.shape[-1])
        return out.index_copy(0, self.indices, states[0]).view(*self.shape, -1)
