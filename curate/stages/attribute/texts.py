"""Encode the queries, and the samples that a run was trained on, as the run's own model reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ...samples import TEXT_ROLE, Message, Sample
from ...store import Artifact, Store
from ..inputs import Inputs
from ..pools import pool_of, pool_samples
from ..select.warmup_samples import encode_distinct
from ..tokens.turns import Answers, Expansion

if TYPE_CHECKING:
    from ...lm.tokens.encode import Encoder
    from ...lm.tokens.token_table import TokenTable
    from .config import AttributeConfig

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Queries:
    """The queries, each once.

    Attributes:
        ids: their sample ids.
        rows: their tokens and labels.
        answers: those that are answers of conversations.
        text: text of the query of `--text`; None: the queries are of a pool.
    """

    ids: list[str]
    rows: list[Row]
    answers: Answers
    text: str | None = None


def read_queries(config: AttributeConfig, inputs: Inputs, encoder: Encoder) -> Queries:
    """Encode the queries of the pool, or the query of `--text`.

    Raises:
        DataError: no query has a token that counts.
    """
    expansion = Expansion(encoder)
    if config.pool is not None:
        table = encode_distinct(inputs.artifacts["pool"], expansion, _first(inputs.artifacts["pool"], config.limit))
        count = min(len(table), config.limit or len(table))
        return Queries(table.ids[:count], [table[row] for row in range(count)], expansion.answers)
    assert config.text is not None
    messages: list[Message] = [
        {"role": "user", "content": config.text},
        {"role": "assistant", "content": config.answer},
    ]
    if config.answer is None:
        messages = [{"role": TEXT_ROLE, "content": config.text}]
    sample = Sample(messages, format="text" if config.answer is None else "messages")
    table = _encoded(sample, encoder)
    shown = config.text if config.answer is None else f"{config.text}\n{config.answer}"
    return Queries([sample.sample_id], [table[0]], {}, shown)


def _first(pool: Artifact, limit: int | None) -> set[str] | None:
    """Return the ids of the first distinct conversations of a pool; None: of all."""
    if limit is None:
        return None
    found: dict[str, None] = {}
    for _, sample in pool_samples(pool):
        found[sample.sample_id] = None
        if len(found) == limit:
            break
    return set(found)


def _encoded(sample: Sample, encoder: Encoder) -> TokenTable:
    from ...lm.tokens.encode import encode_all
    from ...lm.tokens.token_table import TokenTable

    rejected: dict[str, str] = {}
    table = TokenTable(encode_all([(0, sample)], encoder, rejected))
    if rejected:
        raise DataError(
            f"The query of --text has no token that counts: {rejected[sample.sample_id]}. Give a shorter question, or "
            "an --answer with text."
        )
    return table


@dataclass(frozen=True)
class TrainedTexts:
    """The samples that a run was trained on.

    Attributes:
        row_of: sample id -> token table and row in it.
        answers: those that are answers of conversations.
        pools: the pools that they are of.
    """

    row_of: dict[str, tuple[TokenTable, int]]
    answers: Answers
    pools: list[Artifact]

    def __getitem__(self, key: tuple[str, bytes | None]) -> Row:
        """Return tokens and labels of a sample; with a token mask only the tokens that it has are labels."""
        sample_id, mask = key
        table, number = self.row_of[sample_id]
        row = table[number]
        return row if mask is None else _masked(row, mask)


def _masked(row: Row, mask: bytes) -> Row:
    """Return a row with labels only at the target tokens whose bit of the mask is 1; see `ledger.token_mask`."""
    from ...numerics.losses import IGNORE

    labels = row["labels"].copy()
    targets = np.flatnonzero(labels[1:] != IGNORE) + 1
    trained = np.unpackbits(np.frombuffer(mask, np.uint8))[: len(targets)].astype(bool)
    labels[targets[: len(trained)][~trained]] = IGNORE
    return {**row, "labels": labels}


def read_trained(store: Store, run: Artifact, ids: Collection[str], encoder: Encoder) -> TrainedTexts:
    """Encode the samples with these ids: of the run's pool, and of the pool that it replayed.

    Raises:
        DataError: a pool is no longer in the store, or does not have the samples.
    """
    found: dict[str, tuple[TokenTable, int]] = {}
    answers: dict[str, tuple[str, int]] = {}
    pools = list(_pools(store, run))
    for pool in pools:
        left = set(ids) - found.keys()
        if not left:
            break
        pool.check()
        expansion = Expansion(encoder)
        table = encode_distinct(pool, expansion, left)
        found |= {sample_id: (table, row) for row, sample_id in enumerate(table.ids)}
        answers |= {key: value for key, value in expansion.answers.items() if key in left}
    if missing := set(ids) - found.keys():
        raise DataError(
            f"{len(missing)} samples of the ledger of '{run.name}', {min(missing)} among them, are not in its pool as "
            "it is read now. Train the run again."
        )
    return TrainedTexts(found, answers, pools)


def _pools(store: Store, run: Artifact) -> Iterator[Artifact]:
    yield pool_of(store, [run])
    if (replayed := run.inputs.get("replay")) is not None:
        pool = next((artifact for artifact in store.artifacts() if artifact.fingerprint == replayed), None)
        if pool is None:
            raise DataError(f"The pool that '{run.name}' replayed is no longer in the store: ingest it again.")
        yield pool
