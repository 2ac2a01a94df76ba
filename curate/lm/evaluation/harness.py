"""Tasks of the lm-evaluation-harness on a model that is loaded already. The only module that imports lm_eval."""

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

MISSING = f"The lm-evaluation-harness is not installed: {pip_install('eval')}, or leave --tasks out."


@dataclass(frozen=True)
class Tasks:
    """Which tasks, and how.

    Attributes:
        names: of tasks, groups or tags; patterns (`mmlu_*`) too.
        folder: of YAML tasks of the user's own, or None.
        defaults: with a folder: the harness's own tasks, too, which takes 20 s to read.
        limit: of each task only the first so many questions.
        num_fewshot: examples before each question; None: as the task has it.
        apply_chat_template: put questions as chat turns.
        batch_size: questions at once.
    """

    names: Sequence[str]
    folder: str | None = None
    defaults: bool = False
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = 16


def harness_version() -> str:
    """Which version is installed: its tasks change from one to the next."""
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise ConfigError(MISSING) from None


def run_tasks(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Tasks
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluate, offline where the tasks' data are local.

    Args:
        model: causal, on its device.
        tokenizer: its own.
        tasks: what and how.

    Returns:
        Rows of `evaluations` (task, metric, value, stderr, samples), and rows of `answers` (task, metric, sample_id,
        prediction, reference, correct) for metrics that are 0 or 1 for each question.
    """
    harness_version()
    with _quiet():
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=tasks.folder, include_defaults=tasks.defaults or tasks.folder is None)
        names = _known(tasks, manager)
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=tasks.batch_size)
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the harness prints goes to stderr, and of what it logs only errors."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import lm_eval.evaluator as evaluator

            # It asks git for the commit of the working directory, which says nothing here, and git would complain.
            with mock.patch.object(evaluator, "get_git_commit_hash", lambda: None, create=True):
                yield
    finally:
        logger.setLevel(level)


def _known(tasks: Tasks, manager: Any) -> list[str]:
    """The names that the patterns stand for."""
    for name in tasks.names:
        if not manager.match_tasks([name]):
            where = f" in {tasks.folder}" if tasks.folder and not tasks.defaults else ""
            raise ConfigError(f"There is no task '{name}'{where}.{did_you_mean(name, manager.all_tasks)}")
    found: list[str] = manager.match_tasks(list(tasks.names))
    return found


def _results(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a task (or group) and metric; a filter that is not the only one is part of the metric's name."""
    counts = found.get("n-samples", {})
    for task, values in {**found["results"], **(found.get("groups") or {})}.items():
        for key, value in values.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{chosen}")
            yield {
                "task": task,
                "metric": _named(metric, chosen),
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
                    "metric": _named(metric, sample["filter"]),
                    "sample_id": sample["doc_hash"],
                    "prediction": _text(sample["filtered_resps"]),
                    "reference": str(sample["target"]),
                    "correct": bool(value),
                }


def _named(metric: str, chosen: str) -> str:
    return metric if chosen == "none" else f"{metric},{chosen}"


def _text(responses: Sequence[Any]) -> str:
    """A generated answer as it is; of choices, (log-likelihood, is greedy) each, the log-likelihoods."""
    said = (f"{each[0]:.4f}" if isinstance(each, tuple) else str(each) for each in responses)
    return "  ".join(said)
