"""Run tasks of the lm-evaluation-harness on a model that is already in memory.

This is the only module that imports lm_eval. The package is optional (`pip install "curate[eval]"`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest import mock

from torch import nn
from transformers import PreTrainedTokenizerBase

from ...errors import ConfigError, CurateError, did_you_mean
from ...version import pip_install
from ..templates.clock import date_of, on_day
from ..tokens.chat import check_limits

MISSING = f"The lm-evaluation-harness is not installed: {pip_install('eval')}, or omit --tasks."


@dataclass(frozen=True)
class Tasks:
    """Tasks to run and their options.

    Attributes:
        names: names of tasks, groups or tags; patterns such as `mmlu_*` are allowed.
        folder: folder with the user's own YAML tasks, or None.
        defaults: with a folder: also load the tasks of the harness. Reading them takes 20 s.
        limit: number of questions of each task, taken from its beginning; None for all.
        num_fewshot: number of examples before each question; None for the task's own number.
        apply_chat_template: render the questions as chat turns.
        batch_size: number of questions in a batch.
    """

    names: Sequence[str]
    folder: str | None = None
    defaults: bool = False
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = 16


def harness_version() -> str:
    """Return the installed version. Task definitions change from version to version.

    Raises:
        ConfigError: the harness is not installed.
    """
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise ConfigError(MISSING) from None


def run_tasks(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Tasks
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluate the model on the tasks. No network is needed if the tasks' data are local.

    Args:
        model: causal language model, on its device.
        tokenizer: the model's tokenizer.
        tasks: the tasks and their options.

    Returns:
        Rows of `evaluations` (task, metric, value, stderr, samples), and rows of `answers` (task, metric, sample_id,
        prediction, reference, correct) for metrics whose value is 0 or 1 for each question.

    Raises:
        ConfigError: the harness is not installed, a task does not exist, or a task's data, template or metric fails.
    """
    harness_version()
    with quiet():
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=tasks.folder, include_defaults=tasks.defaults or tasks.folder is None)
        names = matched_names(tasks, manager)
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=tasks.batch_size)
        _limit_template(wrapped, tokenizer)
        try:
            found: Any = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=list(names),
                num_fewshot=tasks.num_fewshot,
                limit=tasks.limit,
                apply_chat_template=tasks.apply_chat_template,
                task_manager=manager,
            )
        except CurateError:
            raise
        except (ValueError, OSError, KeyError) as error:  # a task's data, template or metric
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"The lm-evaluation-harness cannot run {', '.join(names)}: {reason}") from error
    return list(_results(found)), [row for name, samples in found["samples"].items() for row in _answers(name, samples)]


def _limit_template(wrapped: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the harness render a question only after the template has rendered it within the limits, on its day."""
    render = wrapped.apply_chat_template

    def limited(chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> Any:
        check_limits(tokenizer, chat_history, prompt=add_generation_prompt)
        with on_day(date_of(tokenizer)):
            return render(chat_history, add_generation_prompt=add_generation_prompt)

    wrapped.apply_chat_template = limited


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Redirect the harness's prints to stderr, and let it log only errors."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import lm_eval.evaluator as evaluator

            # The harness asks git for the commit of the working directory. That commit means nothing here, and git
            # prints an error outside a repository.
            with mock.patch.object(evaluator, "get_git_commit_hash", lambda: None, create=True):
                yield
    finally:
        logger.setLevel(level)


def matched_names(tasks: Tasks, manager: Any) -> list[str]:
    """Return the task names that the patterns match; raise `ConfigError` for a pattern without a match."""
    for name in tasks.names:
        if not manager.match_tasks([name]):
            where = f" in {tasks.folder}" if tasks.folder and not tasks.defaults else ""
            raise ConfigError(f"There is no task '{name}'{where}.{did_you_mean(name, manager.all_tasks)}")
    found: list[str] = manager.match_tasks(list(tasks.names))
    return found


def _results(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per task (or group) and metric. A filter other than `none` is part of the metric's name."""
    counts = found.get("n-samples", {})
    for task, values in {**found["results"], **(found.get("groups") or {})}.items():
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{filter_name}")
            yield {
                "task": task,
                "metric": _metric_name(metric, filter_name),
                "value": float(value),
                "stderr": float(error) if isinstance(error, (int, float)) else None,
                "samples": counts.get(task, {}).get("effective") or values.get("sample_len"),
            }


def _answers(task: str, samples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, (bool, int, float)) and value in (0, 1):
                yield {
                    "task": task,
                    "metric": _metric_name(metric, sample["filter"]),
                    "sample_id": sample["doc_hash"],
                    "prediction": _text(sample["filtered_resps"]),
                    "reference": str(sample["target"]),
                    "correct": bool(value),
                }


def _metric_name(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _text(responses: Sequence[Any]) -> str:
    """Join the responses to one text: generated answers unchanged, choices as their log-likelihoods.

    The harness represents a choice as (log-likelihood, is greedy).
    """
    parts = (f"{each[0]:.4f}" if isinstance(each, tuple) else str(each) for each in responses)
    return "  ".join(parts)
