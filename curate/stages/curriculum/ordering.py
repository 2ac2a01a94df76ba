"""Order and weight the samples of a pool, by measures of past runs or by the answer of a query.

A measure is a number per sample that a query computes from a run's ledger, such as its loss. With several runs a
sample's value is the mean over the runs that have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, DataError, did_you_mean
from ...store import Artifact
from ...store.catalog.limits import Limits
from ..export.selection import each_once
from ..inputs import Inputs

MEASURES = {
    "loss": """
        SELECT sample_id, coalesce(arg_min(loss, (step, "rank", slot)) FILTER (kept),
                                   arg_max(loss, (step, "rank", slot))) AS loss
        FROM ledger WHERE run = $run AND isfinite(loss) GROUP BY sample_id""",
    "kept": "SELECT sample_id, kept FROM keep_rate WHERE run = $run AND offered > 0",
    "keep_rate": "SELECT sample_id, rate AS keep_rate FROM keep_rate WHERE run = $run AND offered > 0",
    "forgotten": "SELECT sample_id, forgotten FROM forgetting WHERE run = $run",
    "volatility": "SELECT sample_id, volatility FROM volatility WHERE run = $run",
}
"""Measure -> the query that computes it for the samples of one run.

`loss` is the loss in the step in which the sample was first kept, before the update; for a sample that was never kept,
its last loss.
"""

ORDERS = {
    "easy_to_hard": (("loss", "ascending"),),
    "hard_to_easy": (("loss", "descending"),),
    "most_kept": (("kept", "descending"), ("keep_rate", "descending")),
    "forgetting": (("forgotten", "descending"), ("volatility", "descending")),
}
"""Order -> the measures to sort by; the first is the score. Ties are sorted by sample id, which is a hash."""


class OrderRequest(Protocol):
    """Options of a curriculum that decide its order."""

    @property
    def order(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def query(self) -> Path | None: ...
    @property
    def limits(self) -> Limits: ...


def ordered(request: OrderRequest, inputs: Inputs, samples: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the samples that have a value, in order, and the samples that have none, by sample id.

    Both tables have the columns `sample_id`, `score` and `weight`.

    Args:
        request: the order and the weights.
        inputs: inputs of the stage, with the runs.
        samples: the pool's distinct samples: the column `sample_id`, ascending.

    Raises:
        ConfigError: the file of the query is missing, or the query lacks the column of the weights.
        DataError: the query returns samples that are not in the pool, or a column that does not hold numbers.
    """
    returned, weight = answer(request, inputs), request.weights
    if returned is None:
        by = ORDERS[request.order]
        score = by[0][0]
        values = _with_measures(inputs, samples, [*(name for name, _ in by), *({weight} - {"none"})])
        has_value = pc.is_valid(values[score])
        known = values.filter(has_value).sort_by([*by, ("sample_id", "ascending")])
    else:
        score = "score"
        has_value = pc.is_in(samples["sample_id"], value_set=returned["sample_id"])
        _check_in_pool(returned["sample_id"], samples["sample_id"])
        known = _with_measures(inputs, returned, {weight} & set(MEASURES) - set(returned.column_names))
    columns = pa.table(_columns(known, score, weight))
    unknown = samples.filter(pc.invert(has_value))["sample_id"]
    nulls = pa.nulls(len(unknown), pa.float64())
    return columns, pa.table({"sample_id": unknown, "score": nulls, "weight": nulls}, schema=columns.schema)


def _with_measures(inputs: Inputs, samples: pa.Table, names: Iterable[str]) -> pa.Table:
    """Add columns of measures to samples; null for samples without a value in any run."""
    for name in dict.fromkeys(names):
        measure = _measured(inputs, name)
        rows = pc.index_in(samples["sample_id"], value_set=measure["sample_id"])
        samples = samples.append_column(name, measure[name].take(rows))
    return samples


def _columns(values: pa.Table, score: str, weight: str) -> dict[str, Any]:
    """Return the columns `sample_id`, `score` and `weight`; the latter two are null if the table lacks them."""

    def numbers(name: str) -> Any:
        if name not in values.column_names:
            return pa.nulls(len(values), pa.float64())
        try:
            return values[name].cast(pa.float64(), safe=False)
        except pa.ArrowException:
            raise DataError(f"The column {name} of the query holds {values[name].type}, not numbers.") from None

    if weight not in (*values.column_names, "none"):
        raise ConfigError(f"The query returns no column '{weight}'.{did_you_mean(weight, values.column_names)}")
    return {"sample_id": values["sample_id"], "score": numbers(score), "weight": numbers(weight)}


def _measured(inputs: Inputs, name: str) -> pa.Table:
    """Return `sample_id` and a measure: the mean over the runs that have a value for the sample."""
    store, labels, parts = inputs.store, inputs.store.display_names(), []
    for artifact in runs_of(inputs):
        part = store.query(MEASURES[name], {"run": labels[artifact.fingerprint]})
        if name in ("loss", "forgotten", "volatility") and not len(part):
            raise DataError(
                f"The ledger of the run '{artifact.name}' has no losses, because its selector measures none: use a run "
                "whose selector makes a scoring pass, or --order most_kept."
            )
        parts.append(part.set_column(1, name, part[name].cast(pa.float64())))
    means = pa.concat_tables(parts).group_by("sample_id", use_threads=False).aggregate([(name, "mean")])
    return means.select(["sample_id", f"{name}_mean"]).rename_columns(["sample_id", name]).combine_chunks()


def runs_of(inputs: Inputs) -> list[Artifact]:
    """Return the runs that `--from` names, in that order."""
    return [artifact for field, artifact in inputs.artifacts.items() if field.startswith("runs.")]


def answer(request: OrderRequest, inputs: Inputs) -> pa.Table | None:
    """Return the answer of the query of `--order sql:FILE`, each sample where it comes first; None without a query."""
    if request.query is None:
        return None
    if not request.query.is_file():
        raise ConfigError(f"--order {request.order}: there is no file {request.query}.")
    sql = request.query.read_text(encoding="utf-8")
    labels = inputs.store.display_names()
    runs = [labels[artifact.fingerprint] for artifact in runs_of(inputs)]
    parameters = {"runs": runs, "run": runs[0]}
    used = set(re.findall(r"\$(\w+)", re.sub(r"--.*", "", sql))) & set(parameters)
    if "run" in used and len(runs) > 1:
        raise ConfigError(
            f"{request.query} uses one run ($run), but --from names {len(runs)}: use $runs, which is a list."
        )
    returned = inputs.store.query(sql, {name: parameters[name] for name in used}, request.limits)
    return each_once(returned).combine_chunks()


def _check_in_pool(ids: pa.ChunkedArray, pool: pa.ChunkedArray) -> None:
    """Raise `DataError` if ids of the query are not in the pool."""
    missing = ids.filter(pc.invert(pc.is_in(ids, value_set=pool))).to_pylist()
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{len(missing)} of {len(ids)} sample_ids of the query are not in the pool of the runs: {some}. "
            "Restrict the query to that pool."
        )
