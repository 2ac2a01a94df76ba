"""What runs saw of the samples of a pool, and the orders that come of it: by measures of the ledger, or by a query."""

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
"""What a run says of a sample: the loss is the one before it was first trained on, or the last where it never was."""

ORDERS = {
    "easy_to_hard": (("loss", "ascending"),),
    "hard_to_easy": (("loss", "descending"),),
    "most_kept": (("kept", "descending"), ("keep_rate", "descending")),
    "forgetting": (("forgotten", "descending"), ("volatility", "descending")),
}
"""Order -> the measures that it goes by; the first is the score. Ties go by sample id, which is a hash."""


class OrderRequest(Protocol):
    """What a curriculum says of its order."""

    @property
    def order(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def query(self) -> Path | None: ...
    @property
    def limits(self) -> Limits: ...


def ordered(wanted: OrderRequest, inputs: Inputs, samples: pa.Table) -> tuple[pa.Table, pa.Table]:
    """`sample_id`, `score` and `weight`: of what is known of, in order; and of the rest, by sample id.

    Args:
        wanted: the order and the weights.
        inputs: the runs among them.
        samples: the pool's, each once; only `sample_id`, ascending.
    """
    said, weight = answer(wanted, inputs), wanted.weights
    if said is None:
        by = ORDERS[wanted.order]
        score = by[0][0]
        values = _with_measures(inputs, samples, [*(name for name, _ in by), *({weight} - {"none"})])
        there = pc.is_valid(values[score])
        known = values.filter(there).sort_by([*by, ("sample_id", "ascending")])
    else:
        score = "score"
        there = pc.is_in(samples["sample_id"], value_set=said["sample_id"])
        _refuse_strangers(said["sample_id"], samples["sample_id"])
        known = _with_measures(inputs, said, {weight} & set(MEASURES) - set(said.column_names))
    columns = pa.table(_columns(known, score, weight))
    left = samples.filter(pc.invert(there))["sample_id"]
    nothing = pa.nulls(len(left), pa.float64())
    return columns, pa.table({"sample_id": left, "score": nothing, "weight": nothing}, schema=columns.schema)


def _with_measures(inputs: Inputs, samples: pa.Table, names: Iterable[str]) -> pa.Table:
    """Samples with measures beside them; null for those that no run has it for."""
    for name in dict.fromkeys(names):
        measure = _measured(inputs, name)
        place = pc.index_in(samples["sample_id"], value_set=measure["sample_id"])
        samples = samples.append_column(name, measure[name].take(place))
    return samples


def _columns(values: pa.Table, score: str, weight: str) -> dict[str, Any]:
    """The three columns, from a table that may not have the latter two."""

    def numbers(name: str) -> Any:
        if name not in values.column_names:
            return pa.nulls(len(values), pa.float64())
        try:
            return values[name].cast(pa.float64(), safe=False)
        except pa.ArrowException:
            raise DataError(f"The column {name} of the query holds {values[name].type}, not numbers.") from None

    if weight not in (*values.column_names, "none"):
        raise ConfigError(f"The query gives no column '{weight}'.{did_you_mean(weight, values.column_names)}")
    return {"sample_id": values["sample_id"], "score": numbers(score), "weight": numbers(weight)}


def _measured(inputs: Inputs, name: str) -> pa.Table:
    """`sample_id` and a measure: the mean over the runs that have it for a sample."""
    store, labels, parts = inputs.store, inputs.store.display_names(), []
    for artifact in runs_of(inputs):
        part = store.query(MEASURES[name], {"run": labels[artifact.fingerprint]})
        if name in ("loss", "forgotten", "volatility") and not len(part):
            raise DataError(
                f"The ledger of the run '{artifact.name}' has no losses, for its selector measures none: take a run "
                "whose selector makes a scoring pass, or --order most_kept."
            )
        parts.append(part.set_column(1, name, part[name].cast(pa.float64())))
    means = pa.concat_tables(parts).group_by("sample_id", use_threads=False).aggregate([(name, "mean")])
    return means.select(["sample_id", f"{name}_mean"]).rename_columns(["sample_id", name]).combine_chunks()


def runs_of(inputs: Inputs) -> list[Artifact]:
    """The runs that `--from` names, in that order."""
    return [artifact for field, artifact in inputs.artifacts.items() if field.startswith("runs.")]


def answer(wanted: OrderRequest, inputs: Inputs) -> pa.Table | None:
    """What the query of `--order sql:FILE` gives, each sample where it comes first; None where there is no query."""
    if wanted.query is None:
        return None
    if not wanted.query.is_file():
        raise ConfigError(f"--order {wanted.order}: there is no file {wanted.query}.")
    sql = wanted.query.read_text(encoding="utf-8")
    labels = inputs.store.display_names()
    runs = [labels[artifact.fingerprint] for artifact in runs_of(inputs)]
    given = {"runs": runs, "run": runs[0]}
    asked = set(re.findall(r"\$(\w+)", re.sub(r"--.*", "", sql))) & set(given)
    if "run" in asked and len(runs) > 1:
        raise ConfigError(f"{wanted.query} asks of one run ($run), and --from names {len(runs)}: use $runs, a list.")
    return each_once(inputs.store.query(sql, {name: given[name] for name in asked}, wanted.limits)).combine_chunks()


def _refuse_strangers(asked: pa.ChunkedArray, there: pa.ChunkedArray) -> None:
    lost = asked.filter(pc.invert(pc.is_in(asked, value_set=there))).to_pylist()
    if lost:
        some = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise DataError(f"{len(lost)} of {len(asked)} sample_ids of the query are not in the pool of the runs: {some}.")
