"""Pack texts without padding: all real tokens in one row, with positions that start from 0 at every text.

Flash attention receives the boundaries of the texts and never computes a padded position. Elsewhere the row has an
attention function of its own (`attention.py`), which also computes the beginnings that texts share only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

from .attention import RowAttention, Segment

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types that keep the texts of one row separate. Others (state spaces, convolutions) carry state from one text to
the next."""

LEAST = 32
"""Tokens that a shared beginning must save. Each fork costs some calls of the attention function in every layer."""


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
        locations: (n,) int64, location in the row of each of these tokens; None: they are the row.
        segments: the segments of the row, for `RowAttention`; () for flash attention.
    """

    inputs: dict[str, Any]
    indices: Tensor
    shape: torch.Size
    locations: Tensor | None = None
    segments: tuple[Segment, ...] = ()

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

    @classmethod
    def in_segments(
        cls, input_ids: Tensor, attention_mask: Tensor, device: torch.device, *, least: int | None = LEAST
    ) -> Packed:
        """Pack a batch that is padded on the right into segments; beginnings that texts share become one segment.

        Args:
            input_ids: (b, L); reading them waits for the GPU if they are there.
            attention_mask: (b, L), on any device.
            device: device of the model.
            least: tokens that a shared beginning must save; None: nothing is shared.
        """
        mask = attention_mask.cpu().bool()
        lengths = mask.sum(1).tolist()
        texts = [row[:length] for row, length in zip(input_ids.tolist(), lengths, strict=True)]
        row, positions, segments, locations = row_of(texts, least)
        indices = mask.flatten().nonzero()[:, 0]
        inputs = {
            "input_ids": torch.tensor([row]).to(device, non_blocking=True),
            "position_ids": torch.tensor([positions]).to(device, non_blocking=True),
        }
        whole = torch.tensor([location for text in locations for location in text])
        return cls(
            inputs,
            indices.to(device, non_blocking=True),
            attention_mask.shape,
            whole.to(device, non_blocking=True),
            tuple(segments),
        )

    def unpack(self, states: Tensor) -> Tensor:
        """Return packed states (1, n, d) as a padded batch (b, L, d), zero at padded positions."""
        out = states.new_zeros(self.shape.numel(), states.shape[-1])
        rows = states[0] if self.locations is None else states[0].index_select(0, self.locations)
        return out.index_copy(0, self.indices, rows).view(*self.shape, -1)


def row_of(
    texts: Sequence[list[int]], least: int | None
) -> tuple[list[int], list[int], list[Segment], list[Sequence[int]]]:
    """Lay texts out in one row, with beginnings that several of them share laid out once: a trie.

    Args:
        texts: the tokens of each text, at least one.
        least: tokens that sharing a beginning must save; None: nothing is shared.

    Returns:
        The tokens of the row, their positions in their texts, the segments, and the locations of each text's tokens.
    """
    row: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    locations: list[Sequence[int]] = [()] * len(texts)
    order = range(len(texts)) if least is None else sorted(range(len(texts)), key=lambda index: texts[index])
    groups = [[index] for index in order] if least is None else list(_forks(texts, list(order), 0, least))
    stack: list[tuple[list[int], int, tuple[tuple[int, int], ...]]] = [(group, 0, ()) for group in reversed(groups)]
    while stack:
        group, start, path = stack.pop()
        first = texts[group[0]]
        end = len(first) if len(group) == 1 else _common(first, texts[group[-1]], start)
        if end > start:
            path = (*path, (len(row), len(row) + end - start))
            row.extend(first[start:end])
            positions.extend(range(start, end))
            segments.append(Segment(path, start))
        whole = [index for index in group if len(texts[index]) == end]
        for index in whole:
            locations[index] = [location for span in path for location in range(*span)]
        rest = [index for index in group if len(texts[index]) > end]
        if rest:
            assert least is not None
            stack.extend((part, end, path) for part in reversed(list(_forks(texts, rest, end, least))))
    return row, positions, segments, locations


def _forks(texts: Sequence[list[int]], group: list[int], start: int, least: int) -> Iterator[list[int]]:
    """Split sorted texts by their token at `start`; texts whose common beginning saves too little stay alone."""
    at = 0
    while at < len(group):
        end = at + 1
        while end < len(group) and texts[group[end]][start] == texts[group[at]][start]:
            end += 1
        part = group[at:end]
        shared = _common(texts[part[0]], texts[part[-1]], start) - start
        if len(part) > 1 and shared * (len(part) - 1) >= least:
            yield part
        else:
            yield from ([index] for index in part)
        at = end


def _common(one: list[int], other: list[int], start: int) -> int:
    """Return how many tokens two texts share at their beginning, if they share the first `start`."""
    end = min(len(one), len(other))
    return next((at for at in range(start, end) if one[at] != other[at]), end)


class Packer:
    """Calls a model with the real tokens of a batch in one row, and returns its states as a padded batch.

    Args:
        attention: the attention of rows; None: the model has flash attention.
        least: tokens that a shared beginning must save; None: nothing is shared.
    """

    def __init__(self, attention: RowAttention | None = None, least: int | None = LEAST) -> None:
        self.attention = attention
        self.least = least

    @property
    def shares(self) -> bool:
        """True if beginnings that texts share are computed once."""
        return self.attention is not None and self.least is not None

    def states(
        self, backbone: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, device: torch.device
    ) -> Tensor:
        """Return the last hidden states (b, L, d) of texts, zero at padded positions. No cache is made.

        Args:
            backbone: the model without its head.
            input_ids: (b, L), padded on the right, on any device.
            attention_mask: (b, L), on any device.
            device: device of the model.
        """
        packed, row = self.row(backbone, input_ids, attention_mask, device)
        return packed.unpack(row)

    def row(
        self, backbone: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, device: torch.device
    ) -> tuple[Packed, Tensor]:
        """Return texts in one row, and its last hidden states (1, n, d); see `states`."""
        if self.attention is None:
            packed = Packed.of(input_ids.to(device), attention_mask)
            return packed, backbone(**packed.inputs, use_cache=False).last_hidden_state
        packed = Packed.in_segments(input_ids, attention_mask, device, least=self.least)
        with self.attention.over(packed.segments):
            return packed, backbone(**packed.inputs, use_cache=False).last_hidden_state

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a row's attention until its backward pass in this block is done."""
        with self.attention.held() if self.attention else nullcontext():
            yield


class LossPacking:
    """Packs the batches of the training loss while it is on; `chunk_loss` asks it.

    Attributes:
        packer: what packs, once it is proved for the model; None: batches stay padded.
    """

    def __init__(self) -> None:
        self.packer: Packer | None = None
        self._on = False

    @property
    def now(self) -> Packer | None:
        """The packer, while it is on."""
        return self.packer if self._on else None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Pack, and keep a row's attention until the backward pass in this block is done."""
        self._on = True
        try:
            with self.packer.held() if self.packer else nullcontext():
                yield
        finally:
            self._on = False
