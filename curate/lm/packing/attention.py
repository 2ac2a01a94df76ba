"""Attention for one row that holds many texts, segment by segment, through transformers' `AttentionInterface`.

A row consists of segments: stretches of tokens. The tokens of a segment attend to the segments on its path, which ends
with the segment itself, and causally to each other. A text alone is one segment; texts with the same beginning share
the segment of the beginning, so it is computed once. No mask of the whole row is built: the cost is that of the texts.

transformers builds no mask for an attention function of an unknown name, so windows, soft-caps and sinks are honoured
here. A model that hides something else in its masks is found by the proof at the start of a run (`row_proof.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "curate_segments"
"""Name of the attention function in transformers."""


class RowError(RuntimeError):
    """A model uses attention in a way that a row of several texts does not support."""


@dataclass(frozen=True)
class Segment:
    """A stretch of tokens of a row.

    Attributes:
        path: (begin, end) in the row of every earlier segment that its tokens attend to, then of the segment itself.
        start: number of tokens on the path before the segment: the position of its first token.
    """

    path: tuple[tuple[int, int], ...]
    start: int

    @property
    def begin(self) -> int:
        """Place in the row of the first token."""
        return self.path[-1][0]

    @property
    def end(self) -> int:
        """Place in the row after the last token."""
        return self.path[-1][1]


@dataclass
class _Row:
    segments: tuple[Segment, ...]
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    layers: int = 0


class _Active:
    """The row whose attention is computed now. A plain attribute, because a backward pass may run in another thread."""

    row: _Row | None = None


class RowAttention:
    """Switches a model's attention to segments, and back.

    Args:
        model: the model whose layers attend, without or with a head and adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
        self._configs: list[Any] = [config for config in configs.values() if hasattr(config, "_attn_implementation")]
        self._held = 0

    @contextmanager
    def over(self, segments: tuple[Segment, ...]) -> Iterator[_Row]:
        """Compute attention over the segments of a row; inside `held` until that ends."""
        row = _Row(segments)
        with self.held():
            self._set(NAME, row)
            yield row

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the last row after its forward pass: gradient checkpointing computes its attention once more."""
        before = [config._attn_implementation for config in self._configs], _Active.row
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held:
                _Active.row = before[1]
                for config, name in zip(self._configs, before[0], strict=True):
                    config._attn_implementation = name

    def _set(self, name: str, row: _Row) -> None:
        _Active.row = row
        for config in self._configs:
            config._attn_implementation = name


def by_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of a row of n tokens, in the form of transformers' attention functions.

    Each segment costs what its tokens cost in a text: O(m·(s + m)) for m tokens after s.

    Args:
        module: the attention layer.
        query: (1, heads, n, d).
        key: (1, heads of keys, n, d).
        value: the same.
        attention_mask: must be None.
        dropout: probability of dropout of the weights.
        scaling: factor of the products; None: d^-½.
        sliding_window: a token attends to this many tokens, itself included; None: to all before it.
        softcap: products are bounded by softcap·tanh(·/softcap); None: not.
        s_aux: (heads,) sinks, the products of an additional key that has no value; None: none.
        position_bias: must be None.
        unused: what else transformers sends.

    Returns:
        (1, n, heads, d) and None, as transformers expects.

    Raises:
        RowError: there is no row, or the layer needs something else.
    """
    row = _Active.row
    causal = unused.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if row is None or attention_mask is not None or position_bias is not None or not causal:
        raise RowError("its attention needs more than the tokens of one text")
    if len(query) != 1 or query.shape[2] != row.segments[-1].end or key.shape[2] != query.shape[2]:
        raise RowError("its attention sees other tokens than those of the row")
    row.layers += 1
    out = []
    for segment in row.segments:
        own = query[:, :, segment.begin : segment.end]
        keys, values = (_along(x, segment.path) for x in (key, value))
        mask = _mask_of(row, segment, sliding_window, query)
        if softcap is None and s_aux is None:
            out.append(
                nn.functional.scaled_dot_product_attention(
                    own,
                    keys,
                    values,
                    mask,
                    dropout,
                    is_causal=mask is None,
                    scale=scaling,
                    enable_gqa=own.shape[1] != keys.shape[1],
                )
            )
        else:
            out.append(_explicit(own, keys, values, mask, dropout, scaling, softcap, s_aux))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, by_segments)


def _along(states: Tensor, path: tuple[tuple[int, int], ...]) -> Tensor:
    parts = [states[:, :, begin:end] for begin, end in path]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _mask_of(row: _Row, segment: Segment, window: int | None, like: Tensor) -> Tensor | None:
    """Return 0 where a token (row) sees a key (column) and -inf elsewhere; None if that is just the causal triangle.

    A mask is made once for all layers, in the dtype of `like`: torch would convert one of bool in each call.
    """
    size, total = segment.end - segment.begin, segment.end - segment.begin + segment.start
    window = window if window is not None and total > window else None
    if not segment.start and window is None:
        return None
    name = (size, total, window)
    if name not in row.masks or row.masks[name].dtype != like.dtype:
        seen = torch.ones(size, total, dtype=torch.bool, device=like.device).tril(segment.start)
        seen = seen if window is None else seen.triu(segment.start - window + 1)
        row.masks[name] = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
    return row.masks[name]


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Compute attention with a soft-cap or sinks, which torch's function does not have."""
    groups, size = query.shape[1] // key.shape[1], query.shape[2]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    products = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        products = softcap * torch.tanh(products / softcap)
    if mask is None:
        mask = torch.full((size, size), -torch.inf, dtype=products.dtype, device=query.device).triu(1)
    products = products + mask
    if sinks is not None:
        products = torch.cat([products, sinks.to(products).reshape(1, -1, 1, 1).expand(-1, -1, size, 1)], -1)
    weights = products.softmax(-1, dtype=torch.float32).to(query.dtype)[..., : key.shape[2]]
    return nn.functional.dropout(weights, dropout, dropout > 0) @ value
