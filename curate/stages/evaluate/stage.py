"""`curate evaluate`: how good a model is, on a held-out pool and at tasks: rows of SQL beside the run that made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from ...config import EXTERNAL, INERT, Config, Ref, flag_of
from ...errors import ConfigError, DataError, did_you_mean
from ...executors.options import Spreading, crew_of
from ...log import LOGGER
from ...store import Artifact, Draft
from ..inputs import Inputs
from ..pools import samples_between
from ..tokenization import Reading
from .examination import ANSWER, CHOICE, LOSS, Examination, schema

EXAMPLES = """\
curate evaluate --model run --pool heldout --name run-heldout     # the model that `curate train --name run` made
curate evaluate --model Qwen/Qwen2.5-0.5B --pool heldout --by source,domain --name before
curate evaluate --model run --pool gsm8k --metric last_number --answer-column answer --name run-gsm8k
curate evaluate --model run --pool mmlu --metric choice --by task --name run-mmlu
curate evaluate --model run --tasks gsm8k,mmlu --limit 100 --name run-tasks     # lm-evaluation-harness
curate evaluate --model run --tasks my_task --task-folder ./my-tasks --name run-mine
torchrun --nproc-per-node 8 -m curate evaluate --model run --pool heldout --name run-heldout     # a GPU each
curate query evaluations"""

OF_POOL = ("by", "metric", "answer_column", "choices_column", "max_new_tokens")
OF_TASKS = ("task_folder", "default_tasks", "num_fewshot", "apply_chat_template")
SHOWN = 30
"""Results that the summary shows; all are in the table `evaluations`."""

RESULTS = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "task", "metric", "grouped_by", "slice")),
        ("value", pa.float64()),
        ("stderr", pa.float64()),
        ("samples", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
"""Of `evaluations`."""

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


class EvaluateConfig(Spreading, Reading, Config):
    """Which model is evaluated, and at what."""

    pool: Ref | None = Field(None, description="A held-out pool, as named at ingest: its loss is always measured.")
    by: tuple[str, ...] = Field(("source",), description="Results also by these columns of the pool: source,domain.")
    metric: tuple[Literal["exact_match", "last_number", "choice"], ...] = Field(
        (),
        description="Of the pool's answers: exact_match and last_number of what the model generates (greedy), choice "
        "by likelihood.",
    )
    answer_column: str | None = Field(
        None, description="Column of the right answer; else what the assistant says last, and for choice: answer."
    )
    choices_column: str = Field("choices", description="Of --metric choice: the column of the choices.")
    max_new_tokens: int = Field(256, ge=1, description="Tokens that an answer may have.")
    tasks: tuple[str, ...] = Field((), description="Tasks of the lm-evaluation-harness, also groups and patterns.")
    task_folder: Annotated[str | None, EXTERNAL] = Field(None, description="Folder of YAML tasks of your own.")
    default_tasks: bool = Field(False, description="With --task-folder: the harness's own tasks, too (20 s to read).")
    num_fewshot: int | None = Field(None, ge=0, description="Examples before a task's questions; else as it has them.")
    apply_chat_template: bool = Field(False, description="Put the tasks' questions as turns of a chat.")
    limit: int | None = Field(None, ge=1, description="Only the first so many samples of the pool and of each task.")
    score_batch_tokens: Annotated[int, INERT] = Field(4096, ge=1, description="Padded tokens measured at once.")
    score_batch_size: Annotated[int | None, INERT] = Field(None, ge=1, description="Texts measured at once, at most.")
    generate_batch_size: Annotated[int, INERT] = Field(16, ge=1, description="Prompts answered at once.")
    shard_rows: int = Field(2000, ge=1, description="Rows of the pool a shard; a stopped pass goes on at the next.")

    @model_validator(mode="after")
    def _is_whole(self) -> EvaluateConfig:
        if self.pool is None and not self.tasks:
            raise ConfigError("Say what the model is to be evaluated at: --pool NAME, --tasks NAME, or both.")
        given = ("pool", OF_POOL) if self.pool is None else ("tasks", OF_TASKS) if not self.tasks else None
        if given:
            for name in given[1]:
                field = type(self).model_fields[name]
                if getattr(self, name) != field.default:
                    raise ConfigError(f"--{flag_of(name, field)} is of --{given[0]}, which is not given.")
        return self


CONFIG = EvaluateConfig
DISTRIBUTED = True


def more_inputs(config: EvaluateConfig, inputs: Inputs) -> dict[str, str]:
    """The harness's tasks are not the same in every version of it."""
    if not config.tasks:
        return {}
    from ...lm.evaluation.harness import harness_version

    return {"lm_eval": harness_version()}


def run(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure a pool shard by shard, then the tasks; rows of both go into `evaluations`."""
    pool = inputs.artifacts.get("pool")
    seconds = _examine(config, inputs, draft, pool) if pool else {}
    if draft.rank:
        return
    draft.sweep()
    run_made = _maker(inputs, config)
    results: list[Row] = []
    if pool:
        results += list(pool_results(draft, config.by))
        _tell(config, draft, pool, results)
    if config.tasks:
        results += _run_tasks(config, inputs, draft)
    draft.add("evaluations", pa.Table.from_pylist([{**row, "run": run_made} for row in results], schema=RESULTS))
    draft.rows = sum(len(answers) for answers in draft.added("answers", ["sample_id"]))
    draft.summary = _summary(draft, results, seconds)


def _examine(config: EvaluateConfig, inputs: Inputs, draft: Draft, pool: Artifact) -> Mapping[str, float]:
    from ...store.rows.pool_rows import PoolRows

    rows = PoolRows(pool.shards())
    columns = [column for column in config.by if column != "source"]
    if CHOICE in config.metric:
        columns += [config.choices_column, config.answer_column or ANSWER]
    elif config.answer_column:
        columns.append(config.answer_column)
    _check_columns(rows, columns, pool)
    work = Examination(config, inputs.places["model"], pool, min(len(rows), config.limit or len(rows)), draft)
    with config.connected():
        return crew_of(work, config, once=True).make(work.shards, label=f"evaluate {pool.name}")


def _check_columns(rows: Any, wanted: Sequence[str], pool: Artifact) -> None:
    """Refuse a column that no row of the pool has; rows are read until all have been seen."""
    missing, known = set(wanted), {"source"}
    if not missing:
        return
    for _, sample in samples_between(rows, 0, len(rows), originals=True):
        known |= set(sample.original)
        missing -= known
        if not missing:
            return
    column = min(missing)
    raise ConfigError(f"The pool '{pool.name}' has no column '{column}'.{did_you_mean(column, known)}")


def _maker(inputs: Inputs, config: EvaluateConfig) -> str | None:
    """The fingerprint of what made the model, where the store has made it."""
    mark = inputs.fingerprints["model"]
    return mark if inputs.store.has(config.model) and inputs.store.get(config.model).fingerprint == mark else None


def pool_results(draft: Draft, by: Sequence[str]) -> Iterator[Row]:
    """Rows of `evaluations` from the answers to a pool: of everything, then of each slice.

    The loss is a mean over target tokens, Σ ℓ_i t_i / Σ t_i; an accuracy is a mean over samples.
    """
    columns = ["task", "metric", "correct", "loss", "target_tokens", "slices"]
    parts = [table for table in draft.added("answers", columns) if len(table)]
    if not parts:
        return
    table = pa.concat_tables(parts)
    task, metrics = table["task"][0].as_py(), np.array(table["metric"].to_pylist())
    slices = [dict(pairs) for pairs in table["slices"].to_pylist()]
    losses = table["loss"].to_numpy()
    weights = table["target_tokens"].to_numpy()
    right = np.array([bool(correct) for correct in table["correct"].to_pylist()], dtype=np.float64)
    for metric in dict.fromkeys(metrics.tolist()):
        of_metric = np.flatnonzero(metrics == metric)
        of_loss = metric == LOSS
        values = losses if of_loss else right
        for column, part, rows in [(None, None, of_metric), *_groups(of_metric, slices, by)]:
            counts = weights[rows].astype(np.float64) if of_loss else np.ones(len(rows))
            value, error = mean_and_error(values[rows], counts)
            yield {
                "task": task,
                "metric": metric,
                "grouped_by": column,
                "slice": part,
                "value": value,
                "stderr": error,
                "samples": len(rows),
                "tokens": int(counts.sum()) if of_loss else None,
            }


def _groups(
    rows: npt.NDArray[np.int64], slices: Sequence[Mapping[str, str | None]], by: Sequence[str]
) -> Iterator[tuple[str, str | None, npt.NDArray[np.int64]]]:
    """(column, value, rows) of every slice; slices of a column in the order of their names, no value last."""
    for column in by:
        found: dict[str | None, list[int]] = {}
        for row in rows.tolist():
            found.setdefault(slices[row].get(column), []).append(row)
        for value in sorted(found, key=lambda value: (value is None, value or "")):
            yield column, value, np.array(found[value])


def mean_and_error(values: Floats, weights: Floats) -> tuple[float, float | None]:
    """A weighted mean and its standard error, samples being independent (their tokens are not).

    m = Σ w_i v_i / Σ w_i,  se² = n/(n − 1) · Σ w_i² (v_i − m)² / (Σ w_i)²: with equal weights s/√n.

    Returns:
        The mean, and the error: None for a single sample.
    """
    mean = float(np.average(values, weights=weights))
    if len(values) < 2:
        return mean, None
    spread = np.square(weights * (values - mean)).sum() * len(values) / (len(values) - 1)
    return mean, float(np.sqrt(spread) / weights.sum())


def _tell(config: EvaluateConfig, draft: Draft, pool: Artifact, results: Sequence[Row]) -> None:
    """Say what could not be measured; `DataError` where that is all of a metric, or anything and `--strict`."""
    refused = _refused(draft)
    why = ", ".join(f"{reason} ({count})" for reason, count in refused.most_common())
    found = {row["metric"] for row in results}
    for metric in (LOSS, *config.metric):
        if metric not in found:
            raise DataError(f"No sample of the pool '{pool.name}' has the metric {metric}: {why or 'it is empty'}.")
    if refused and config.strict:
        raise DataError(f"Some samples of '{pool.name}' cannot be measured: {why}. Leave --strict out to go without.")
    if refused:
        LOGGER.warning(f"Some samples of '{pool.name}' are left out: {why}. They are in the table rejects.")


def _refused(draft: Draft) -> Counter[str]:
    return Counter(reason for table in draft.added("rejects", ["reason"]) for reason in table["reason"].to_pylist())


def _run_tasks(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> list[Row]:
    """The tasks of the harness; the answers to their questions, where these are right or wrong, go into `answers`."""
    import torch

    from ...lm.evaluation.harness import Tasks, run_tasks
    from ...lm.model.load import load_model, load_tokenizer

    options = config.options(inputs.places["model"])
    tasks = Tasks(
        names=config.tasks,
        folder=inputs.places.get("task_folder"),
        defaults=config.default_tasks,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        apply_chat_template=config.apply_chat_template,
        batch_size=config.generate_batch_size,
    )
    model = load_model(options).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    results, answers = run_tasks(model, load_tokenizer(options), tasks)
    draft.add("answers", pa.Table.from_pylist(answers, schema=schema()), key="tasks")
    return results


def _summary(draft: Draft, results: Sequence[Row], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What was measured, whole tasks first; slices as far as there is room."""
    ordered = sorted(results, key=lambda row: row.get("grouped_by") is not None)
    columns = ("task", "metric", "grouped_by", "slice", "value", "stderr", "samples", "tokens")
    found: dict[str, Any] = {"refused": dict(_refused(draft))} if _refused(draft) else {}
    found["results"] = [{name: row.get(name) for name in columns} for row in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        found["more results"] = f"{len(ordered) - SHOWN} (curate query evaluations)"
    if seconds:
        found["seconds"] = {part: round(spent, 2) for part, spent in seconds.items()}
    return found
