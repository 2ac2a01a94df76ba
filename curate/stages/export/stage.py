"""`curate export`: write samples as a dataset for Hugging Face tools: those that a run kept, of a subset or of a query.

The result is an artifact of the store, and is copied to `--to`: a second export of the same samples costs only the
copy. The fingerprint depends on the selected samples, not only on the options: when the answer of a query changes, the
export changes too. An export may be larger than memory: the ids and the requested columns of all selected samples are
in memory, and one batch of the samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...formats import WEIGHT
from ...formats.locations import shown
from ...log import LOGGER
from ...samples import Sample, from_row
from ...store import Artifact, Draft
from ...store.artifacts.files import write_text
from ...store.artifacts.path_checks import require_no_links
from ...store.artifacts.safe_files import remove
from ...store.destinations import check_folder
from ...store.rows.out_of_core import gather, read_batches
from ..inputs import Inputs
from ..pools import weight_column_of
from ..stage import Stage
from ..subsets import SUBSETS
from .adapted import ADAPTATIONS, AdaptedRows
from .card import FILES, Written, card
from .config import ExportConfig
from .differences import Differences, trl_format
from .files import write_rows
from .json_lines import WatchedRows
from .loading import json_problems, loading_section
from .publish import copy_out, push, remote, upload
from .rows import ChosenRows
from .selection import ChosenSamples, choose, digest, made_by
from .trainers import (
    AUTO,
    TRAINER_FORMATS,
    TURN_MARKERS,
    check_tool_calls,
    differences_section,
    trainer_file,
    training_section,
)
from .weights import Selection, Weights

EXAMPLES = """\
curate export --run uds --to exports/uds --name uds-kept
curate export --subset subset --as jsonl --name chosen
curate export --subset curriculum --for llama-factory --columns rank,weight --name ordered
curate export --run uds --min-times-kept 2 --columns score,times_kept --as jsonl --name twice
curate export --sql "SELECT sample_id, loss FROM features WHERE loss < 2 ORDER BY loss" --pool pool --name easy
curate export --subset subset --as parquet --to s3://bucket/chosen --name remote
curate export --run uds --format messages --push-to-hub me/uds-kept --name uds-chat"""


def more_inputs(config: ExportConfig, inputs: Inputs) -> dict[str, str]:
    """Return the fingerprint of the pool, and a hash of the selected samples; check the destination before the work."""
    if isinstance(config.destination, Path):
        check_folder(config.destination, inputs.store.root)
    else:
        remote(config.destination)
    selected = choose(config, inputs)
    return {
        "pool": selected.pool.fingerprint,
        "choice": digest(selected.rows, ["score", "weight", *config.columns]),
    }


def run(config: ExportConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the dataset, its card, and the records of its samples in the table `subsets`."""
    draft.restart()
    selected = choose(config, inputs)
    gathered = draft.path / "gathered.parquet"
    gather(selected.pool.shards(), selected.positions(draft.path), gathered)
    stored, config = config.stored(), _with_format(config, gathered)
    marker = TURN_MARKERS.get((config.trainer or "", config.format))
    maker: Selection = "run" if config.run is not None else "subset" if config.subset is not None else "sql"
    weights = Weights(maker, weight_column_of(selected.pool) or WEIGHT)
    rows = ChosenRows(gathered, selected.conversations, config.format, config.columns, marker, weights)
    watched = WatchedRows(rows)
    differences = None
    if config.trainer is not None:
        differences = _differences(config, config.trainer, gathered)
        differences.cut = _cut(selected, made_by(inputs))
        if adapt := ADAPTATIONS.get((config.trainer, config.format)):
            watched = WatchedRows(AdaptedRows(rows, adapt))
    write_rows(
        watched if config.file_format == "jsonl" else watched.rows,
        draft.files,
        config.file_format,
        selected.pool.summary.get("types"),
    )
    remove(gathered)
    sections = [loading_section(draft.files, config.file_format, config.format, watched)]
    sections += weights.section(config.format)
    if config.trainer is not None and differences is not None:
        _write_trainer_file(config, config.trainer, rows, draft, differences.flags)
        sections.append(training_section(config.trainer, config.format, config.name, FILES.get(config.file_format, "")))
        sections.append(differences_section(config.trainer, differences))
        draft.summary |= {"rows the trainer skips": differences.skipped}
    _warn(config, watched, differences)
    draft.rows = len(selected.conversations)
    draft.add("subsets", _subset_records(selected))
    if len(selected.answers):
        draft.add("turn_samples", selected.answers)
    draft.summary |= {"format": config.format} if stored["format"] == AUTO else {}
    draft.summary |= {"rows": draft.rows, "pool": inputs.store.display_names()[selected.pool.fingerprint]}
    if rows.chosen_turns is not None:
        draft.summary |= {"answers chosen": rows.chosen_turns.chosen, "of": rows.chosen_turns.total}
    written = Written(draft.fingerprint, sections)
    text = card(stored, inputs.store, selected.pool, made_by(inputs), rows, written)
    write_text(draft.files / "README.md", text)


def _with_format(config: ExportConfig, gathered: Path) -> ExportConfig:
    """Return the options with the format that the selected samples need, if it is `auto`."""
    if config.format != AUTO:
        return config
    return config.model_copy(update={"format": trl_format(sample for batch in _samples(gathered) for sample in batch)})


def _samples(gathered: Path) -> Iterator[list[Sample]]:
    return ([from_row(row) for row in batch.to_pylist()] for batch in read_batches(gathered))


def _differences(config: ExportConfig, trainer: str, gathered: Path) -> Differences:
    """Return what the trainer does differently with the selected samples; raise `DataError` if it loses any text."""
    differences = Differences.of(_samples(gathered), trainer, config.format)
    differences.check(TRAINER_FORMATS[trainer].title, config.format)
    return differences


def _cut(selected: ChosenSamples, run: Artifact | None) -> tuple[int, int] | None:
    """Return how many selected samples have as many tokens as the run reads, and this number; None if none is known."""
    length = None if run is None else run.config.get("max_length")
    if length is None or "tokens" not in selected.rows.column_names or len(selected.answers):
        return None
    count = pc.sum(pc.greater_equal(selected.rows["tokens"], length)).as_py() or 0
    return (count, length) if count else None


def _warn(config: ExportConfig, watched: WatchedRows, differences: Differences | None) -> None:
    """Log what the trainer does differently, and what `datasets` misreads."""
    if differences is not None and config.trainer is not None:
        for line in [*differences.lines(), *differences.lines_of_length(config.trainer)]:
            LOGGER.warning(f"{TRAINER_FORMATS[config.trainer].title} {line}.")
    for problem in json_problems(watched):
        LOGGER.warning(f"datasets.load_dataset cannot read train.jsonl rightly: {problem}. Give --as parquet.")


def _write_trainer_file(
    config: ExportConfig, trainer: str, rows: ChosenRows, draft: Draft, flags: Collection[str]
) -> None:
    """Write the file that the trainer needs next to the rows, if it needs one."""
    if rows.calls or "tools" in rows.present:
        check_tool_calls(trainer, config.format)
    file = FILES.get(config.file_format, "")
    if written := trainer_file(trainer, config.format, config.name, file, rows.present | {*flags, *rows.markers}):
        name, text = written
        write_text(draft.files / name, text)


def deliver(config: ExportConfig, artifact: Artifact) -> None:
    """Copy the dataset to `--to`, and upload it to the Hub with `--push-to-hub`."""
    require_no_links(artifact.path)
    destination, store = config.destination, artifact.path.parents[2]
    if isinstance(destination, str):
        upload(artifact, destination, config.name, overwrite=config.overwrite)
    else:
        copy_out(artifact, destination, config.name, store, overwrite=config.overwrite)
    LOGGER.info(f"{artifact.rows} samples in {shown(str(destination))}")
    if config.push_to_hub:
        push(artifact.files, config.push_to_hub, private=config.private)
        LOGGER.info(f"pushed to https://huggingface.co/datasets/{config.push_to_hub}")


def _subset_records(selected: ChosenSamples) -> pa.Table:
    """Return the records of the table `subsets`: one per exported sample, in order."""
    rows = selected.rows

    def numbers(name: str) -> Any:
        if name not in rows.column_names or not _is_number(rows[name].type):
            return pa.nulls(len(rows), pa.float64())
        return rows[name].cast(pa.float64(), safe=False)

    columns = {"sample_id": rows["sample_id"], "rank": pa.array(range(len(rows)), pa.int64())}
    return pa.table({**columns, "score": numbers("score"), "weight": numbers("weight")}, schema=SUBSETS)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


STAGE = Stage(ExportConfig, run, EXAMPLES, more_inputs=more_inputs, deliver=deliver)
