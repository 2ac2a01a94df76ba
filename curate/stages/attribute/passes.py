"""Passes over the samples that a run was trained on, at one of its checkpoints, as tasks that processes can share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...errors import ConfigError, DataError
from ...executors.work import Advance, Worker
from ...store import Artifact, Draft
from ...store.artifacts.parquet import read_parquet, write_parquet
from ..settings import ModelSettings
from .config import AttributeConfig
from .ledger_steps import Exposure, number_of
from .texts import Queries, TrainedTexts

if TYPE_CHECKING:
    from ...training.gradients.attribution import QueryProducts

CHUNK = 64
"""Number of texts whose products are computed and written together."""

SCHEMA = pa.schema(
    [
        ("checkpoint", pa.int64()),
        ("sample_id", pa.string()),
        ("token_mask", pa.binary()),
        ("exposure", pa.float64()),
        ("steps", pa.int64()),
        ("products", pa.list_(pa.float64())),
    ]
)
"""Columns of the artifact's own data: the products of a text with each query, at the checkpoint of this step."""

TOKENS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("token_mask", pa.binary()),
        ("exposure", pa.float64()),
        ("products", pa.list_(pa.list_(pa.float64()))),
    ]
)
"""Columns of the products by token: for each target token that is trained on a list with one for each query."""


@dataclass(frozen=True)
class Chunk:
    """Texts whose products are computed together.

    They are always the same ones, because the texts that share a pass change the last digit of a product.

    Attributes:
        number: number of the file that holds the result.
        exposures: the texts.
    """

    number: int
    exposures: Sequence[Exposure]


def chunks_of(
    exposures: Sequence[Exposure], texts: TrainedTexts, checkpoint: int, first: int, size: int | None = None
) -> list[Chunk]:
    """Cut the texts of a checkpoint into chunks of similar length, so that a pass has little padding.

    Args:
        exposures: the texts of all checkpoints.
        texts: their tokens.
        checkpoint: index of the checkpoint.
        first: number of the first chunk.
        size: number of texts in a chunk; None: `CHUNK`.
    """
    size = size or CHUNK
    own = [each for each in exposures if each.checkpoint == checkpoint]
    own.sort(key=lambda each: (len(texts[each.sample_id, None]["input_ids"]), each.sample_id, each.token_mask or b""))
    parts = [own[start : start + size] for start in range(0, len(own), size)]
    return [Chunk(first + number, part) for number, part in enumerate(parts)]


@dataclass(frozen=True)
class AttributionPass:
    """Work that computes the products of trained texts with the queries at one checkpoint.

    Attributes:
        config: the options.
        run: the run.
        settings: its model and tokenizer.
        checkpoint: folder of the checkpoint.
        step: its step.
        queries: the queries.
        texts: the texts.
        draft: the unfinished artifact.
        probed: samples from which the metric learns how large the gradient of a step is.
        by_token: whether to compute products by token, for a file below `files`, instead of by text, for a shard.
    """

    config: AttributeConfig
    run: Artifact
    settings: ModelSettings
    checkpoint: Path
    step: int
    queries: Queries
    texts: TrainedTexts
    draft: Draft
    probed: Sequence[Exposure]
    by_token: bool = False
    unit: str = "text"

    @property
    def kept(self) -> int:
        """Number of samples in a step of the run."""
        return int(number_of(self.run, "candidates" if self.run.config.get("selector") == "full" else "keep"))

    def file(self, chunk: Chunk) -> Path:
        """Return the file that holds the result of a chunk."""
        if self.by_token:
            return self.draft.files / f"tokens-{chunk.number:05d}.parquet"
        return self.draft.shard(chunk.number)

    def missing(self, tasks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks that are not written yet."""
        return [chunk for chunk in tasks if not self.file(chunk).exists()]

    def size(self, task: Chunk) -> int:
        """Return the number of texts in a chunk."""
        return len(task.exposures)

    def open(self) -> Worker[Chunk]:
        """Load the checkpoint, on the current device, and measure the gradients of the queries."""
        from ...training.gradients.attribution import QueryProducts

        model = QueryProducts.at(
            self.settings.options(str(self.checkpoint)),
            self.config.metric,
            self.config.sketch(),
            coverage=str(self.run.config.get("gradient_coverage", "all")),
            micro_batch=self.config.score_batch_size,
            clip=number_of(self.run, "max_grad_norm"),
        )
        check_memory(len(self.queries.rows), model.weights, self.config)
        model.learn_metric([self.texts[each.sample_id, each.token_mask] for each in self.probed], self.kept)
        model.ask(self.queries.rows)
        bad = [self.queries.ids[query] for query in (~model.finite).nonzero()[:, 0].tolist()]
        if bad:
            raise DataError(
                f"{len(bad)} queries have a gradient that is not finite at step {self.step}, the first {bad[0]}: "
                "remove them from the queries."
            )
        make = self._by_token if self.by_token else self._by_text

        def compute(task: Chunk, advance: Advance) -> Mapping[str, float]:
            write_parquet(self.file(task), make(model, task, advance))
            return {}

        return compute

    def _by_text(self, model: QueryProducts, task: Chunk, advance: Advance) -> pa.Table:
        products = model.products([self.texts[each.sample_id, each.token_mask] for each in task.exposures])
        advance(len(task.exposures))
        rows = [
            {**vars(each), "checkpoint": self.step, "products": row}
            for each, row in zip(task.exposures, products.tolist(), strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _by_token(self, model: QueryProducts, task: Chunk, advance: Advance) -> pa.Table:
        rows = []
        for each in task.exposures:
            products = model.token_products(self.texts[each.sample_id, each.token_mask])
            rows.append({**vars(each), "products": products.tolist()})
            advance(1)
        return pa.Table.from_pylist(rows, schema=TOKENS)


def check_memory(queries: int, weights: int, config: AttributeConfig) -> None:
    """Raise `ConfigError` if the gradients of the queries need more memory than they may have."""
    needed = 4 * queries * weights
    if config.sketch_dim is None and needed > config.query_memory_mb << 20:
        most = (config.query_memory_mb << 20) // (4 * weights)
        raise ConfigError(
            f"The gradients of {queries} queries need {needed / 2**20:,.0f} MB ({weights:,} weights each), more than "
            f"--query-memory-mb {config.query_memory_mb}. Give --sketch-dim 8192"
            + (f", --limit {most}" if most and config.pool is not None else "")
            + f", or --query-memory-mb {-(-needed // 2**20)}."
        )


def read_products(work: Callable[[int], AttributionPass], tasks: Sequence[Sequence[Chunk]]) -> Iterator[pa.Table]:
    """Yield the results of all chunks, in order.

    Args:
        work: index of a checkpoint -> its pass.
        tasks: chunks by checkpoint.
    """
    for index, chunks in enumerate(tasks):
        for chunk in chunks:
            yield read_parquet(work(index).file(chunk))


def matrix_of(column: pa.ChunkedArray, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return lists of equal length as a matrix, (n, width) float64."""
    flat = column.combine_chunks().flatten()
    return np.asarray(flat, np.float64).reshape(len(column), width)
