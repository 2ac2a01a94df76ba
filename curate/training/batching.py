"""Decide how the kept samples of a step reach the model: packed in rows, sorted by length, or padded to the longest.

All three give the same gradient up to rounding. `packed` computes no padding, and shared beginnings once; `sorted`
computes little padding; `padded` is the plain Trainer to the bit. A run takes the first that the model is proved to
support, and keeps it when it is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..lm.model.load import base_of
from ..lm.model.row_proof import can_split, is_compiled, packer_for_training
from ..lm.model.scoring_model import ScoringModel
from ..lm.packing.packed import LossPacking, Packer
from ..lm.tokens.batch import Batch, take_rows
from ..log import LOGGER

Route = Literal["packed", "sorted", "padded"]
Requested = Literal["auto", "packed", "sorted", "padded"]

ROUTES: dict[Route, str] = {
    "packed": "packed in rows without padding",
    "sorted": "sorted by length into smaller batches",
    "padded": "padded to the longest text",
}
"""Route -> what is done with the texts of a micro-batch."""

CPU_TOKENS: dict[Route, int] = {"packed": 2048, "sorted": 1024}
"""Tokens of a forward pass on a CPU. More are slower, because they leave its caches."""

GPU_TOKENS: dict[Route, int] = {"sorted": 16_384}
"""Tokens of a forward pass on a GPU; a packed micro-batch is one row there."""


class Batching:
    """The way in which a run feeds its micro-batches to the model.

    Args:
        route: what is done with the texts of a micro-batch.
        tokens: maximum number of tokens of a forward pass (packed: real, sorted: padded); None: a whole micro-batch.
        packing: packs the batches of the loss; see `chunk_loss`.

    Attributes:
        scoring: whether scoring passes may pack.
    """

    def __init__(self, route: Route = "padded", tokens: int | None = None, packing: LossPacking | None = None) -> None:
        self.route = route
        self.tokens = tokens
        self.packing = packing
        self.scoring = False

    def parts(self, batch: Batch) -> list[Batch]:
        """Split a padded micro-batch into the batches of its passes: as few as `tokens` allows, longest texts first."""
        if self.route == "padded" or self.tokens is None:
            return [batch]
        parts = self.rows(batch["attention_mask"].sum(1).cpu())
        return [batch] if len(parts) == 1 else [take_rows(batch, part) for part in parts]

    def rows(self, lengths: Tensor, texts: int | None = None) -> list[Tensor]:
        """Return the texts of each pass over texts that need not be padded to the longest: longest texts first.

        Args:
            lengths: (b,) tokens of each text, on the CPU.
            texts: maximum number of texts of a pass; None: any.
        """
        order = torch.argsort(lengths, descending=True, stable=True)
        parts = split(lengths[order].tolist(), self.tokens, padded=self.route == "sorted", texts=texts)
        return [order[part.start : part.stop] for part in parts]

    def packer_of_gradients(self) -> Packer | None:
        """Return what packs texts whose gradients are measured one by one, so that no two texts share a token."""
        packer = self.packing.packer if self.route == "packed" and self.packing else None
        return None if packer is None else Packer(packer.attention, None)

    @contextmanager
    def forward_and_backward(self) -> Iterator[None]:
        """Pack the batches of the loss in this block, if the run packs."""
        with self.packing.on() if self.route == "packed" and self.packing else nullcontext():
            yield

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint records."""
        return {"route": self.route, "tokens": self.tokens, "scoring": self.scoring}


def split(lengths: Sequence[int], tokens: int | None, *, padded: bool, texts: int | None = None) -> list[range]:
    """Split texts, longest first, into stretches of at most `tokens` tokens; a longer text is alone.

    Args:
        lengths: tokens of each text, descending.
        tokens: the limit; None: any number.
        padded: count each text as the longest of its stretch.
        texts: maximum number of texts of a stretch; None: any.
    """
    parts: list[range] = []
    first = total = 0
    for at, length in enumerate(lengths):
        counted = lengths[first] if padded else length
        full = (tokens is not None and total + counted > tokens) or at - first == texts
        if at > first and full:
            parts.append(range(first, at))
            first, total, counted = at, 0, length
        total += counted
    return [*parts, range(first, len(lengths))]


def choose(
    requested: Requested,
    tokens: int | None,
    scoring_model: ScoringModel,
    packing: LossPacking | None,
    longest: int,
    begun: Mapping[str, Any] | None = None,
) -> Batching:
    """Return the fastest batching that the model is proved to support, or the one that the run began with.

    `padded` is for scoring, too: such a run has the numbers of a curate that could not pack.

    Args:
        requested: a route, or `auto`.
        tokens: maximum number of tokens of a forward pass; None: what suits the device.
        scoring_model: the model.
        packing: packs the batches of the loss; None: the model's own loss is used, which cannot be packed.
        longest: number of tokens of the longest text.
        begun: what the checkpoint of a resumed run records; None: the run begins.

    Raises:
        ConfigError: the model cannot do what is requested, or a text is longer than `tokens`.
    """
    if tokens is not None and tokens < longest:
        raise ConfigError(
            f"--train-batch-tokens {tokens} is less than the longest text has, {longest} tokens. Give at least "
            f"{longest}, or lower --max-length."
        )
    if begun is not None and requested not in ("auto", begun["route"]):
        LOGGER.warning(f"The run began with batches {ROUTES[begun['route']]}, so --batching {requested} has no effect.")
    found = _route(requested if begun is None else begun["route"], tokens, scoring_model, packing, longest, begun)
    found.scoring = requested != "padded" if begun is None else begun["scoring"]
    return found


def _route(
    wanted: Requested,
    tokens: int | None,
    scoring_model: ScoringModel,
    packing: LossPacking | None,
    longest: int,
    begun: Mapping[str, Any] | None,
) -> Batching:
    name = type(base_of(scoring_model.model)).__name__
    if wanted in ("auto", "packed") and packing is not None:
        packing.packer = packer_for_training(scoring_model, packing, longest)
        if packing.packer is not None:
            return Batching("packed", _tokens("packed", tokens, scoring_model, begun), packing)
    if wanted == "packed" and begun is None:
        raise ConfigError(
            f"{name} cannot keep the texts of one row apart here{_why(scoring_model)}. Leave out --batching packed: "
            "then batches are sorted by length."
        )
    if wanted != "padded" and can_split(scoring_model, longest):
        if wanted != "sorted":
            LOGGER.info(
                f"{name} cannot keep the texts of one row apart here{_why(scoring_model)}: batches are "
                f"{ROUTES['sorted']} instead of packed."
            )
        return Batching("sorted", _tokens("sorted", tokens, scoring_model, begun))
    if wanted != "padded":
        LOGGER.info(f"The gradient of {name} depends on which texts share a batch: batches are {ROUTES['padded']}.")
    return Batching("padded")


def _why(scoring_model: ScoringModel) -> str:
    if scoring_model.sharded:
        return " (--fsdp shards its layers)"
    return " (--torch-compile compiles it for padded batches)" if is_compiled(scoring_model) else ""


def _tokens(
    route: Route, tokens: int | None, scoring_model: ScoringModel, begun: Mapping[str, Any] | None
) -> int | None:
    """Return the budget of a forward pass: what is given, else that of the checkpoint, else what suits the device."""
    if tokens is not None:
        return tokens
    if begun is not None and begun["route"] == route:
        found: int | None = begun["tokens"]
        return found
    on_gpu = scoring_model.head.weight.device.type == "cuda"
    return (GPU_TOKENS if on_gpu else CPU_TOKENS).get(route)
