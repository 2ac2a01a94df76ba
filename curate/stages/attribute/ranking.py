"""Rank the samples of a run by their influence on each query, and make the records of the table `attributions`.

The influence of sample i on query q is Σ over checkpoints c of a_ic ⟨Γ(∇ℓ_i), ∇ℓ_q⟩ at c, with its exposure a_ic
(ledger_steps.py) and the product in the chosen metric (training/gradients/attribution.py). It is above 0 where training
on the sample lowered the loss of the query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .passes import matrix_of
from .texts import Queries, TrainedTexts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RECORDS = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "query_id", "query", "sample_id")),
        ("rank", pa.int64()),
        ("from_bottom", pa.int64()),
        ("influence", pa.float64()),
        ("share", pa.float64()),
        ("exposure", pa.float64()),
        ("steps", pa.int64()),
        ("tokens", pa.list_(pa.float64())),
        ("token_texts", pa.list_(pa.string())),
    ]
)
"""Schema of the table `attributions`."""


@dataclass(frozen=True)
class Ranking:
    """Influence of samples on queries.

    Attributes:
        ids: the n samples with a finite gradient, sorted.
        rejected: the others.
        influence: (n, Q), in nats per learning rate of 1; with several queries their mean is one more column, the last.
        exposure: (n,) Σ η κ w over all steps.
        steps: (n,) number of steps that trained on the sample.
    """

    ids: list[str]
    rejected: list[str]
    influence: Floats
    exposure: Floats
    steps: Ints

    @classmethod
    def of(cls, tables: Iterable[pa.Table], ids: Iterable[str], queries: int) -> Ranking:
        """Add up the products of all checkpoints.

        Args:
            tables: data of the passes, see `passes.SCHEMA`.
            ids: sample ids in them.
            queries: Q.
        """
        names = sorted(set(ids))
        index = {sample_id: row for row, sample_id in enumerate(names)}
        influence, exposure = np.zeros((len(names), queries)), np.zeros(len(names))
        steps = np.zeros(len(names), np.int64)
        for table in tables:
            rows = np.array([index[sample_id] for sample_id in table["sample_id"].to_pylist()], np.int64)
            weights = table["exposure"].to_numpy()
            np.add.at(influence, rows, weights[:, None] * matrix_of(table["products"], queries))
            np.add.at(exposure, rows, weights)
            np.add.at(steps, rows, table["steps"].to_numpy())
        finite = np.isfinite(influence).all(1)
        rejected = [names[row] for row in np.flatnonzero(~finite)]
        names = [names[row] for row in np.flatnonzero(finite)]
        return cls(names, rejected, with_mean(influence[finite]), exposure[finite], steps[finite])

    def listed(self, column: int, top: int) -> tuple[Ints, Ints]:
        """Return the rows of the `top` samples at each end of a query's order, and their ranks from 0, best first."""
        order = np.argsort(-self.influence[:, column], kind="stable")
        ranks = np.arange(len(order))
        ends = (ranks < top) | (ranks >= len(order) - top)
        return order[ends], ranks[ends]

    def everywhere(self, top: int) -> list[str]:
        """Return the samples that are listed for any query, sorted."""
        rows = {int(row) for column in range(self.influence.shape[1]) for row in self.listed(column, top)[0]}
        return [self.ids[row] for row in sorted(rows)]

    def records(
        self, run: str, queries: Queries, top: int, by_token: Mapping[str, tuple[list[str], Floats]]
    ) -> pa.Table:
        """Return the records of the samples at both ends of each query's order.

        Args:
            run: fingerprint of the run.
            queries: the queries.
            top: number of samples at each end.
            by_token: sample id -> its target tokens as texts, and their influence (T, columns).
        """
        query_ids: list[str | None] = (
            [*queries.ids, None] if self.influence.shape[1] > len(queries.ids) else [*queries.ids]
        )
        records: list[dict[str, Any]] = []
        for column, query_id in enumerate(query_ids):
            total = float(np.abs(self.influence[:, column]).sum()) or 1.0
            for row, rank in zip(*(each.tolist() for each in self.listed(column, top)), strict=True):
                influence = float(self.influence[row, column])
                texts, tokens = by_token.get(self.ids[row], (None, None))
                records.append(
                    {
                        **{"run": run, "query_id": query_id, "query": queries.text, "sample_id": self.ids[row]},
                        **{"rank": rank, "from_bottom": len(self.ids) - 1 - rank, "influence": influence},
                        **{"share": influence / total, "exposure": float(self.exposure[row])},
                        **{"steps": int(self.steps[row]), "token_texts": texts},
                        "tokens": None if tokens is None else tokens[:, column].tolist(),
                    }
                )
        return pa.Table.from_pylist(records, schema=RECORDS)


def with_mean(influence: Floats) -> Floats:
    """Return influence (..., Q) with its mean over the queries as one more column, if there are several."""
    if influence.shape[-1] < 2:
        return influence
    return np.concatenate([influence, influence.mean(-1, keepdims=True)], -1)


def token_influence(
    tables: Iterable[pa.Table], texts: TrainedTexts, queries: int, decode: Any
) -> dict[str, tuple[list[str], Floats]]:
    """Return sample id -> its target tokens as texts, and the influence of each, (T, Q) with the mean as in `Ranking`.

    A token that no step trained on has the influence 0.

    Args:
        tables: data of the passes by token, see `passes.TOKENS`.
        texts: the samples' tokens.
        queries: Q.
        decode: function of a token id that returns its text.
    """
    found: dict[str, tuple[list[str], Floats]] = {}
    for table in tables:
        for row in table.to_pylist():
            sample_id, targets = row["sample_id"], targets_of(texts, row["sample_id"], None)
            if sample_id not in found:
                ids = texts[sample_id, None]["input_ids"][targets]
                found[sample_id] = [decode(int(token)) for token in ids], np.zeros((len(targets), queries))
            trained = np.isin(targets, targets_of(texts, sample_id, row["token_mask"]))
            products = np.array(row["products"], np.float64).reshape(-1, queries)
            found[sample_id][1][trained] += row["exposure"] * products
    return {sample_id: (tokens, with_mean(values)) for sample_id, (tokens, values) in found.items()}


def targets_of(texts: TrainedTexts, sample_id: str, mask: bytes | None) -> Ints:
    """Return the positions of the tokens of a sample that are trained on, with a token mask or all of them."""
    from ...numerics.losses import IGNORE

    labels: Sequence[int] = texts[sample_id, mask]["labels"]
    return np.flatnonzero(np.asarray(labels)[1:] != IGNORE) + 1
