"""`curate curriculum`: a subset of a pool with order and weights from the ledger, to train on again.

What a run saw of each sample (its loss when it came up, whether it was kept, whether it was forgotten) orders the
samples for the next run, of the same model or of another. Of several runs a sample's value is the mean over those that
have one for it; values are not made comparable first, so runs of one model at one selector go together best.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from ...config import Config, Ref
from ...errors import ConfigError, DataError, did_you_mean
from ...log import LOGGER
from ...store import Draft
from ..export.selection import ChosenSamples
from ..inputs import Inputs
from ..pools import pool_of
from ..query_options import QueryOptions
from ..stage import Stage
from ..subsets import SUBSETS
from .ordering import ORDERS, answer, ordered, runs_of

EXAMPLES = """\
curate curriculum --from run --order easy_to_hard --name c1
curate curriculum --from run,run2 --order easy_to_hard --rounds 4 --name c2
curate curriculum --from run --order most_kept --weights keep_rate --never-offered last --name c3
curate curriculum --from run --order sql:store/queries/curriculum.sql --name c4
curate train --pool pool --subset c1 --sequence --model M --selector full --candidates 8 --name ordered"""

WEIGHTS = ("none", "keep_rate", "loss")


class CurriculumConfig(QueryOptions, Config):
    """Whose ledger, and what is made of it."""

    runs: tuple[Ref, ...] = Field(
        min_length=1, description="The runs to learn from, all over one pool.", json_schema_extra={"flag": "from"}
    )
    pool: Ref | None = Field(
        None, description="Where the samples are; by default the runs', and of a script's run the only one."
    )
    order: str = Field(
        "easy_to_hard",
        description="easy_to_hard or hard_to_easy (by the loss before it was first trained on), most_kept, forgetting "
        "(most often forgotten first), or sql:FILE: a query that gives sample_id, in its order; it may use $runs.",
    )
    weights: str = Field(
        "none", description="Weights to draw by: none, keep_rate, loss, or a column of the query of --order sql:FILE."
    )
    rounds: int = Field(
        1, ge=1, description="Rounds that grow: of N, round n has the first n N-ths of the order (column epoch)."
    )
    never_offered: Literal["leave", "last"] = Field(
        "leave",
        description="Samples that the runs say nothing of (never offered, or no finite loss): leave them out, or put "
        "them last.",
    )

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        if order not in ORDERS and not order.startswith("sql:"):
            raise ValueError(f"knows no '{order}'.{did_you_mean(order, [*ORDERS, 'sql:FILE'])}")
        return order

    @model_validator(mode="after")
    def _fits(self) -> CurriculumConfig:
        if len(set(self.runs)) < len(self.runs):
            raise ConfigError("--from names a run twice.")
        if self.weights not in WEIGHTS and self.query is None:
            raise ConfigError(
                f"--weights {self.weights} is no measure of the ledger.{did_you_mean(self.weights, WEIGHTS)} Columns "
                "of a query go with --order sql:FILE."
            )
        return self

    @property
    def query(self) -> Path | None:
        """The file of `sql:FILE`."""
        return Path(self.order.removeprefix("sql:")).expanduser() if self.order.startswith("sql:") else None

    def identity(self) -> dict[str, Any]:
        """Of a query its answer counts (`more_inputs`), not where it is written."""
        return super().identity() | ({"order": "sql"} if self.query else {})


def more_inputs(config: CurriculumConfig, inputs: Inputs) -> dict[str, str]:
    """The pool of the runs, and what the query answers."""
    pool = pool_of(inputs.store, runs_of(inputs), inputs.artifacts.get("pool"))
    said = answer(config, inputs)
    counted = {} if said is None else {"answer": ChosenSamples(pool, said).digest(["score", config.weights])}
    return {"pool": pool.fingerprint, **counted}


def run(config: CurriculumConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the order as a subset: the artifact's data, and facts."""
    pool = pool_of(inputs.store, runs_of(inputs), inputs.artifacts.get("pool"))
    label = inputs.store.display_names()[pool.fingerprint]
    sql = "SELECT DISTINCT sample_id FROM samples WHERE pool = $pool ORDER BY 1"
    known, unknown = ordered(config, inputs, inputs.store.query(sql, {"pool": label}))
    if not len(known):
        raise DataError(f"The runs {', '.join(config.runs)} say nothing of the pool '{pool.name}': nothing is ordered.")
    taken = pa.concat_tables([known, unknown]) if config.never_offered == "last" else known
    gaps = taken["weight"].null_count
    taken = taken.set_column(2, "weight", _filled(taken["weight"]))
    subset = in_rounds(taken, config.rounds)
    draft.write(0, subset)
    draft.add("subsets", subset)
    draft.rows = len(taken)
    draft.summary = _summary(config, known, unknown, taken)
    if 0 < gaps < len(taken):
        draft.summary["weights that are the mean of the others"] = gaps
    if zeros := pc.sum(pc.equal(taken["weight"], 0)).as_py():
        draft.summary["weights of 0, never drawn"] = zeros
    if config.order == "forgetting" and not pc.any(pc.greater(known["score"], 0)).as_py():
        LOGGER.warning(
            "No sample was forgotten in these runs, which takes three looks at it: the order is by volatility alone."
        )
    if config.rounds > 1:
        draft.summary |= {"rounds": config.rounds, "candidates of a pass over the rounds": len(subset)}


def in_rounds(order: pa.Table, rounds: int) -> pa.Table:
    """The subset's table: ranks, and an epoch for each round; of one round it is null.

    Round n of N has the first ⌈n k / N⌉ of k samples: a curriculum that grows (the baby steps of Spitkovsky et al.
    2010, after Bengio et al. 2009), so that what was learnt first is not lost. Rows: about k (N + 1) / 2.
    """
    ranks = pa.array(range(len(order)), pa.int64())
    columns = {"sample_id": order["sample_id"], "rank": ranks, "score": order["score"], "weight": order["weight"]}
    whole = pa.table(columns, schema=SUBSETS)
    if rounds == 1:
        return whole.append_column("epoch", pa.nulls(len(whole), pa.int32()))
    if rounds > len(order):
        raise ConfigError(f"--rounds {rounds} is more than the {len(order)} samples of the order.")
    parts = []
    for number in range(1, rounds + 1):
        part = whole.slice(0, math.ceil(number * len(whole) / rounds))
        parts.append(part.append_column("epoch", pa.array([number] * len(part), pa.int32())))
    return pa.concat_tables(parts)


def _filled(weights: pa.ChunkedArray) -> pa.ChunkedArray:
    """Weights without gaps: who has none gets the mean of the others. None at all stay none."""
    values = weights.to_numpy()
    there = ~np.isnan(values)
    if not there.any():
        return weights
    if not np.isfinite(values[there]).all() or (values[there] < 0).any() or not values[there].any():
        raise DataError("These weights cannot be drawn by: each must be finite, none below 0 and not all 0.")
    return pa.chunked_array([np.where(there, values, values[there].mean())], pa.float64())


def _summary(config: CurriculumConfig, known: pa.Table, unknown: pa.Table, taken: pa.Table) -> dict[str, Any]:
    scores, weights = (pc.min_max(taken[name]).as_py() for name in ("score", "weight"))
    spans = {"scores": scores, "weights": weights}
    return {
        "order": config.order,
        "runs": ", ".join(config.runs),
        "samples": f"{len(taken)} of {len(known) + len(unknown)}",
        "nothing known of": f"{len(unknown)}, {'left out' if config.never_offered == 'leave' else 'put last'}",
        **{name: f"{span['min']:.4g} to {span['max']:.4g}" for name, span in spans.items() if span["min"] is not None},
    }


STAGE = Stage(CurriculumConfig, run, EXAMPLES, more_inputs=more_inputs)
