"""`curate evaluate`: how good a model is, on a held-out pool and at tasks: rows of SQL beside the run that made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...errors import ConfigError, DataError, did_you_mean
from ...executors.options import executor_for
from ...log import LOGGER
from ...store import Artifact, Draft
from ..inputs import Inputs
from ..pools import samples_between
from ..stage import Stage
from .config import EvaluateConfig
from .results import ANSWER, CHOICE, LOSS, RESULTS, Row, pool_results, schema
from .shard import EvaluationPass

EXAMPLES = """\
curate evaluate --model run --pool heldout --name run-heldout     # the model that `curate train --name run` made
curate evaluate --model Qwen/Qwen2.5-0.5B --pool heldout --by source,domain --name before
curate evaluate --model run --pool gsm8k --metric last_number --answer-column answer --name run-gsm8k
curate evaluate --model run --pool mmlu --metric choice --by task --name run-mmlu
curate evaluate --model run --tasks gsm8k,mmlu --limit 100 --name run-tasks     # lm-evaluation-harness
curate evaluate --model run --tasks my_task --task-folder ./my-tasks --name run-mine
torchrun --nproc-per-node 8 -m curate evaluate --model run --pool heldout --name run-heldout     # a GPU each
curate query evaluations"""

SHOWN = 30
"""Results that the summary shows; all are in the table `evaluations`."""


def more_inputs(config: EvaluateConfig, inputs: Inputs) -> dict[str, str]:
    """The harness's tasks are not the same in every version of it."""
    if not config.tasks:
        return {}
    from ...lm.evaluation.harness import harness_version

    return {"lm_eval": harness_version()}


def run(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> None:
    """Measure a pool shard by shard, then the tasks; rows of both go into `evaluations`."""
    pool = inputs.artifacts.get("pool")
    seconds = _evaluate_pool(config, inputs, draft, pool) if pool else {}
    if draft.rank:
        return
    draft.sweep()
    run_made = _model_run(inputs, config)
    results: list[Row] = []
    if pool:
        results += list(pool_results(draft, config.by))
        _print_results(config, draft, pool, results)
    if config.tasks:
        results += _run_tasks(config, inputs, draft)
    draft.add("evaluations", pa.Table.from_pylist([{**row, "run": run_made} for row in results], schema=RESULTS))
    draft.rows = sum(len(answers) for answers in draft.added("answers", ["sample_id"]))
    draft.summary = _summary(draft, results, seconds)


def _evaluate_pool(config: EvaluateConfig, inputs: Inputs, draft: Draft, pool: Artifact) -> Mapping[str, float]:
    from ...store.rows.pool_rows import PoolRows

    rows = PoolRows(pool.shards())
    columns = [column for column in config.by if column != "source"]
    if CHOICE in config.metric:
        columns += [config.choices_column, config.answer_column or ANSWER]
    elif config.answer_column:
        columns.append(config.answer_column)
    _check_columns(rows, columns, pool)
    work = EvaluationPass(config, inputs.locations["model"], pool, min(len(rows), config.limit or len(rows)), draft)
    with config.session():
        return executor_for(work, config, once=True).make(work.shards, label=f"evaluate {pool.name}")


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


def _model_run(inputs: Inputs, config: EvaluateConfig) -> str | None:
    """The fingerprint of what made the model, where the store has made it."""
    mark = inputs.fingerprints["model"]
    return mark if inputs.store.has(config.model) and inputs.store.get(config.model).fingerprint == mark else None


def _print_results(config: EvaluateConfig, draft: Draft, pool: Artifact, results: Sequence[Row]) -> None:
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

    options = config.options(inputs.locations["model"])
    tasks = Tasks(
        names=config.tasks,
        folder=inputs.locations.get("task_folder"),
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


STAGE = Stage(EvaluateConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs)
