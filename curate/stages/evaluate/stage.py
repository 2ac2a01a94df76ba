"""`curate evaluate`: measure a model on a held-out pool and on tasks of the lm-evaluation-harness.

The results are records of the tables `evaluations` and `answers`, with the run that made the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...errors import ConfigError, CurateError, DataError, did_you_mean
from ...executors.options import executor_for
from ...log import LOGGER
from ...store import Artifact, Draft
from ..decontaminate.check import Contact, report, trained_on
from ..inputs import Inputs
from ..pools import samples_between
from ..stage import Stage
from .chosen import Chosen
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
"""Most results that the summary shows; all of them are in the table `evaluations`."""


def more_inputs(config: EvaluateConfig, inputs: Inputs) -> dict[str, str]:
    """Return the version of the harness if tasks are given: a task can differ between versions.

    With `--strict` a model that was trained on held-out rows is an error, also if it was evaluated before.
    """
    if config.strict and "pool" in inputs.artifacts:
        report(_trained_on(inputs, inputs.artifacts["pool"]), strict=True)
    if not config.tasks:
        return {}
    from ...lm.evaluation.harness import harness_version

    return {"lm_eval": harness_version()}


def run(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> None:
    """Evaluate on the pool shard by shard, then on the tasks, and write the records of both to `evaluations`."""
    pool = inputs.artifacts.get("pool")
    contacts = _contacts(inputs, pool) if pool and not draft.rank else []
    report(contacts, strict=False)
    seconds = _evaluate_pool(config, inputs, draft, pool) if pool else {}
    if draft.rank:
        return
    draft.sweep()
    model_fingerprint = _model_fingerprint(inputs, config)
    results: list[Row] = []
    if pool:
        results += list(pool_results(draft, config.by))
        _check_rejects(config, draft, pool, results)
    if config.tasks:
        results += _run_tasks(config, inputs, draft)
    records = [{**row, "run": model_fingerprint} for row in results]
    draft.add("evaluations", pa.Table.from_pylist(records, schema=RESULTS))
    draft.rows = sum(len(answers) for answers in draft.added("answers", ["sample_id"]))
    draft.summary = _summary(draft, results, seconds)
    if contacts:
        draft.summary["trained on held-out rows"] = [each.sentence for each in contacts]


def _trained_on(inputs: Inputs, pool: Artifact) -> list[Contact]:
    chosen = Chosen.of(inputs, pool)
    measured = None if chosen is None else chosen.conversations
    return trained_on(inputs.store, inputs.fingerprints["model"], pool, measured)


def _contacts(inputs: Inputs, pool: Artifact) -> list[Contact]:
    """Return which rows that the model was trained on hold held-out rows; warn if they cannot be read any more."""
    try:
        return _trained_on(inputs, pool)
    except CurateError as error:
        LOGGER.warning(f"Whether the model was trained on rows of '{pool.name}' is not known: {error}")
        return []


def _evaluate_pool(config: EvaluateConfig, inputs: Inputs, draft: Draft, pool: Artifact) -> Mapping[str, float]:
    from ...store.rows.pool_rows import PoolRows

    rows = PoolRows(pool.shards())
    columns = [column for column in config.by if column != "source"]
    if CHOICE in config.metric:
        columns += [config.choices_column, config.answer_column or ANSWER]
    elif config.answer_column:
        columns.append(config.answer_column)
    _check_columns(rows, columns, pool)
    chosen = Chosen.of(inputs, pool)
    total = min(len(rows), config.limit or len(rows)) if chosen is None else chosen.rows(pool, config.limit)
    work = EvaluationPass(config, inputs.locations["model"], pool, total, draft, chosen=chosen)
    with config.session():
        return executor_for(work, config, once=True).make(work.shards, label=f"evaluate {pool.name}")


def _check_columns(rows: Any, columns: Sequence[str], pool: Artifact) -> None:
    """Raise `ConfigError` for a column that no row of the pool has; rows are read until every column was found."""
    missing, known = set(columns), {"source"}
    if not missing:
        return
    for _, sample in samples_between(rows, 0, len(rows), originals=True):
        known |= set(sample.original)
        missing -= known
        if not missing:
            return
    column = min(missing)
    raise ConfigError(f"The pool '{pool.name}' has no column '{column}'.{did_you_mean(column, known)}")


def _model_fingerprint(inputs: Inputs, config: EvaluateConfig) -> str | None:
    """Return the fingerprint of the artifact that made the model; None for a model from outside the store."""
    fingerprint = inputs.fingerprints["model"]
    made_here = inputs.store.has(config.model) and inputs.store.get(config.model).fingerprint == fingerprint
    return fingerprint if made_here else None


def _check_rejects(config: EvaluateConfig, draft: Draft, pool: Artifact, results: Sequence[Row]) -> None:
    """Log the samples that could not be measured.

    Raises:
        DataError: no sample could be measured by a metric, or any could not and `--strict` is given.
    """
    rejected = _rejected(draft)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common())
    measured = {row["metric"] for row in results}
    for metric in (LOSS, *config.metric):
        if metric not in measured:
            raise DataError(
                f"The metric {metric} cannot be measured on any sample of the pool '{pool.name}': "
                f"{reasons or 'the pool is empty'}."
            )
    if rejected and config.strict:
        raise DataError(
            f"Some samples of '{pool.name}' cannot be measured: {reasons}. Without --strict they are rejected, and the "
            "others are measured."
        )
    if rejected:
        LOGGER.warning(f"Some samples of '{pool.name}' are rejected: {reasons}. The table rejects lists them.")


def _rejected(draft: Draft) -> Counter[str]:
    """Return reason -> number of samples rejected for it."""
    return Counter(reason for table in draft.added("rejects", ["reason"]) for reason in table["reason"].to_pylist())


def _run_tasks(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> list[Row]:
    """Run the tasks of the harness, write the scored answers to `answers`, and return the results."""
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
    """Return the summary: whole pools and tasks first, then slices, at most `SHOWN` results."""
    ordered = sorted(results, key=lambda row: row.get("grouped_by") is not None)
    columns = ("task", "metric", "grouped_by", "slice", "value", "stderr", "samples", "tokens")
    rejected = _rejected(draft)
    summary: dict[str, Any] = {"rejected": dict(rejected)} if rejected else {}
    summary["results"] = [{name: row.get(name) for name in columns} for row in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        summary["more results"] = f"{len(ordered) - SHOWN} (curate query evaluations)"
    if seconds:
        summary["seconds"] = {part: round(spent, 2) for part, spent in seconds.items()}
    return summary


STAGE = Stage(EvaluateConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs)
