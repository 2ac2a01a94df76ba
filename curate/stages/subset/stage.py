"""`curate subset`: keep the samples of a pool that a query, a file of ids or other subsets name.

The result is a subset like that of `curate select`: its data, and records of the table `subsets`, have one row per
sample, in order, with a weight if there is one. The text of the query is part of the config.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...store import Artifact, Draft
from ..export.selection import ChosenSamples, digest
from ..inputs import Inputs
from ..stage import Stage
from ..subsets import records_of, subset_of, write_subset
from .config import SubsetConfig
from .members import MEMBERS, check, check_same_answer, from_file, from_rows, from_subsets, join

EXAMPLES = """\
curate subset --pool pool --sql "SELECT sample_id FROM features WHERE loss < 3 ORDER BY loss" --name easy
curate subset --pool pool --sql "SELECT sample_id, 1 / loss AS weight FROM features" --name weighted
curate subset --pool pool --ids keep.txt --name mine
curate subset --pool pool --from easy --union mine --minus bad --name both
curate train --pool pool --subset easy --selector full --model M --name tuned"""

CHOICE = "choice"
"""Key of the digest of the members among the fingerprints."""


def more_inputs(config: SubsetConfig, inputs: Inputs) -> dict[str, str]:
    """Return a digest of the ids, scores and weights that the query returns; files and subsets have fingerprints."""
    return {} if config.sql is None else {CHOICE: digest(_start(config, inputs), MEMBERS.names)}


def run(config: SubsetConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the members as a subset: as the artifact's data, and as records of the table `subsets`."""
    pool = inputs.artifacts["pool"]
    start = _start(config, inputs)
    if config.sql is not None:
        check_same_answer(inputs.store, draft.fingerprint, CHOICE, digest(start, MEMBERS.names))
    added = _named(inputs, "union")
    members = join([start, *(from_subsets(pool, [each]) for each in added)], _origins(config, added))
    found = len(members)
    for each in _named(inputs, "minus"):
        subset_of(pool, each)
        members = members.filter(pc.invert(pc.is_in(members["sample_id"], records_of(each)["sample_id"])))
    if not len(members):
        raise DataError(f"Nothing is left of the {found} samples after --minus: there is nothing to keep.")
    check(members, "The result")
    chosen = ChosenSamples.of(pool, members, inputs.store)
    chosen.positions(draft.path)
    write_subset(draft, members["sample_id"], members["score"], members["weight"])
    if len(chosen.answers):
        draft.add("turn_samples", chosen.answers)
    draft.summary = {"samples": len(members), "of the rows of the pool": pool.rows}
    if config.minus:
        draft.summary["left out by --minus"] = found - len(members)
    if members["weight"].null_count < len(members):
        span = pc.min_max(members["weight"]).as_py()
        draft.summary["weights"] = f"{span['min']:.4g} to {span['max']:.4g}"


def _start(config: SubsetConfig, inputs: Inputs) -> pa.Table:
    """Return the members of --sql, --ids or --from; without them those of the first subset of --union."""
    if config.sql is not None:
        return from_rows(inputs.store.query(config.sql, (), config.limits), "The query")
    if config.ids is not None:
        return from_file(Path(inputs.locations["ids"]))
    return from_subsets(inputs.artifacts["pool"], _named(inputs, "base") or _named(inputs, "union")[:1])


def _named(inputs: Inputs, field: str) -> list[Artifact]:
    """Return the artifacts of a field that is a list, in order."""
    found = {key: each for key, each in inputs.artifacts.items() if key.startswith(f"{field}.")}
    return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]


def _origins(config: SubsetConfig, added: list[Artifact]) -> list[str]:
    start = "The query" if config.sql is not None else "The file of --ids" if config.ids is not None else "The start"
    return [start, *(f"The subset '{each.name}'" for each in added)]


STAGE = Stage(SubsetConfig, run, EXAMPLES, more_inputs=more_inputs)
