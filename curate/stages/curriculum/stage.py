"""`curate curriculum`: make a subset with order and weights from the ledgers of past runs, to train on.

The history of each sample in a run (its loss when it was a candidate, whether it was kept, whether it was forgotten)
orders the samples for the next run, of the same model or of another. With several runs a sample's value is the mean
over the runs that have one. Values are not normalized first, so combine runs of one model with one selector.
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
from ...store import Artifact, Draft
from ..export.selection import digest
from ..inputs import Inputs
from ..pools import pool_of
from ..query_options import QueryOptions
from ..stage import Stage
from ..subsets import SUBSETS
from ..tokens.turns import origins
from .ordering import ORDERS, answer, ordered, runs_of

EXAMPLES = """\
curate curriculum --from run --order easy_to_hard --name c1
curate curriculum --from run,run2 --order easy_to_hard --rounds 4 --name c2
curate curriculum --from run --order most_kept --weights keep_rate --never-offered last --name c3
curate curriculum --from run --order sql:store/queries/curriculum.sql --name c4
curate train --pool pool --subset c1 --sequence --model M --selector full --candidates 8 --name ordered"""

WEIGHTS = ("none", "keep_rate", "loss")


class CurriculumConfig(QueryOptions, Config):
    """Configuration of `curate curriculum`."""

    runs: tuple[Ref, ...] = Field(
        min_length=1, description="Runs to learn from, all over one pool.", json_schema_extra={"flag": "from"}
    )
    pool: Ref | None = Field(
        None,
        description="Pool of the samples. By default it is the pool of the runs; for runs of a script it is the only "
        "pool in the store.",
    )
    order: str = Field(
        "easy_to_hard",
        description="Order of the samples: easy_to_hard or hard_to_easy (by the loss before a sample was first trained "
        "on), most_kept, forgetting (most often forgotten first), or sql:FILE, a query that returns sample_id in the "
        "order to use and may use $runs.",
    )
    weights: str = Field(
        "none",
        description="Weights that samples are drawn by: none, keep_rate, loss, or a column of the query of --order "
        "sql:FILE.",
    )
    rounds: int = Field(
        1,
        ge=1,
        description="Number of growing rounds: with N rounds, round n has the first n/N of the order (column epoch).",
    )
    never_offered: Literal["leave", "last"] = Field(
        "leave",
        description="Samples without a value in the runs (never a candidate, or no finite loss): leave them out of the "
        "subset (leave), or put them last (last).",
    )

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        if order not in ORDERS and not order.startswith("sql:"):
            raise ValueError(f"there is no order '{order}'.{did_you_mean(order, [*ORDERS, 'sql:FILE'])}")
        return order

    @model_validator(mode="after")
    def _fits(self) -> CurriculumConfig:
        if len(set(self.runs)) < len(self.runs):
            raise ConfigError("--from names a run twice: name each run once.")
        if self.weights not in WEIGHTS and self.query is None:
            raise ConfigError(
                f"--weights {self.weights} is not a measure of the ledger.{did_you_mean(self.weights, WEIGHTS)} A "
                "column of a query needs --order sql:FILE."
            )
        return self

    @property
    def query(self) -> Path | None:
        """Path of the query's file in `sql:FILE`; None for another order."""
        return Path(self.order.removeprefix("sql:")).expanduser() if self.order.startswith("sql:") else None

    def identity(self) -> dict[str, Any]:
        """Return the options that enter the fingerprint. A query enters by its answer (`more_inputs`), not its path."""
        return super().identity() | ({"order": "sql"} if self.query else {})


def more_inputs(config: CurriculumConfig, inputs: Inputs) -> dict[str, str]:
    """Return the fingerprint of the runs' pool, and the digest of the query's answer."""
    pool = pool_of(inputs.store, runs_of(inputs), inputs.artifacts.get("pool"))
    returned = answer(config, inputs)
    more = {} if returned is None else {"answer": digest(returned, ["score", config.weights])}
    return {"pool": pool.fingerprint, **more}


def run(config: CurriculumConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the order as a subset: as the artifact's data, and as records of the table `subsets`."""
    pool = pool_of(inputs.store, runs_of(inputs), inputs.artifacts.get("pool"))
    known, unknown = ordered(config, inputs, _samples(inputs, pool))
    if not len(known):
        raise DataError(
            f"The runs {', '.join(config.runs)} have no value for any sample of the pool '{pool.name}': there is "
            "nothing to order. Check --from and --pool, or the query."
        )
    selected = pa.concat_tables([known, unknown]) if config.never_offered == "last" else known
    gaps = selected["weight"].null_count
    selected = selected.set_column(2, "weight", _filled(selected["weight"]))
    subset = in_rounds(selected, config.rounds)
    draft.write(0, subset)
    draft.add("subsets", subset)
    answers = origins(inputs.store, selected["sample_id"])
    if len(answers):
        draft.add("turn_samples", answers)
    draft.rows = len(selected)
    draft.summary = _summary(config, known, unknown, selected)
    if 0 < gaps < len(selected):
        draft.summary["weights that are the mean of the others"] = gaps
    if zeros := pc.sum(pc.equal(selected["weight"], 0)).as_py():
        draft.summary["weights of 0, never drawn"] = zeros
    if config.order == "forgetting" and not pc.any(pc.greater(known["score"], 0)).as_py():
        LOGGER.warning(
            "No sample was forgotten in these runs (this needs three measurements of its loss): the order is by "
            "volatility alone."
        )
    if config.rounds > 1:
        draft.summary |= {"rounds": config.rounds, "candidates of a pass over the rounds": len(subset)}


SAMPLES = """
WITH answers AS (
    SELECT DISTINCT sample_id, conversation_id FROM turn_samples WHERE list_contains($runs, artifact)
), conversations AS (SELECT DISTINCT sample_id FROM samples WHERE pool = $pool)
SELECT sample_id FROM conversations WHERE sample_id NOT IN (SELECT conversation_id FROM answers)
UNION ALL
SELECT sample_id FROM answers WHERE conversation_id IN (FROM conversations) ORDER BY 1
"""
MIXED = """
SELECT any_value(l.sample_id) AS sample_id, count(DISTINCT l.sample_id) AS count
FROM ledger l JOIN turn_samples t ON t.conversation_id = l.sample_id
WHERE list_contains($runs, l.run) AND list_contains($runs, t.artifact)
"""


def _samples(inputs: Inputs, pool: Artifact) -> pa.Table:
    """Return the ids of the samples to order, ascending: conversations, or the answers that the runs read of them.

    Raises:
        DataError: a run has a conversation as a whole, and another has its answers.
    """
    labels = inputs.store.display_names()
    runs = [labels[run.fingerprint] for run in runs_of(inputs)]
    mixed = inputs.store.query(MIXED, {"runs": runs}).to_pylist()[0]
    if mixed["count"]:
        raise DataError(
            f"{mixed['count']} conversations, {mixed['sample_id']} among them, are whole in one of the runs and "
            "answers in another. Name runs with the same --turns and chat template."
        )
    return inputs.store.query(SAMPLES, {"pool": labels[pool.fingerprint], "runs": runs})


def in_rounds(order: pa.Table, rounds: int) -> pa.Table:
    """Build the subset's table, with the rank of each sample and the number of its round in the column `epoch`.

    Round n of N has the first ⌈n k / N⌉ of k samples: a growing curriculum (the baby steps of Spitkovsky et al. 2010,
    after Bengio et al. 2009), so that what was learnt first is not lost. The table has about k (N + 1) / 2 rows. With
    one round `epoch` is null.

    Raises:
        ConfigError: there are more rounds than samples.
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
    """Replace missing weights by the mean of the others; if all are missing, they stay null."""
    values = weights.to_numpy()
    present = ~np.isnan(values)
    if not present.any():
        return weights
    if not np.isfinite(values[present]).all() or (values[present] < 0).any() or not values[present].any():
        raise DataError(
            "These weights cannot be used to draw samples: each must be finite, none below 0, and not all 0."
        )
    return pa.chunked_array([np.where(present, values, values[present].mean())], pa.float64())


def _summary(config: CurriculumConfig, known: pa.Table, unknown: pa.Table, selected: pa.Table) -> dict[str, Any]:
    scores, weights = (pc.min_max(selected[name]).as_py() for name in ("score", "weight"))
    spans = {"scores": scores, "weights": weights}
    return {
        "order": config.order,
        "runs": ", ".join(config.runs),
        "samples": f"{len(selected)} of {len(known) + len(unknown)}",
        "without a value": f"{len(unknown)}, {'left out' if config.never_offered == 'leave' else 'put last'}",
        **{name: f"{span['min']:.4g} to {span['max']:.4g}" for name, span in spans.items() if span["min"] is not None},
    }


STAGE = Stage(CurriculumConfig, run, EXAMPLES, more_inputs=more_inputs)
