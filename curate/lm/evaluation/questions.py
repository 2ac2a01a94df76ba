"""Read the questions of tasks of the lm-evaluation-harness, without a model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError, CurateError
from .harness import Tasks, harness_version, matched_names, quiet


@dataclass(frozen=True)
class Question:
    """A question of a task.

    Attributes:
        task: name of the task.
        number: number of the question in the part of the task that is measured, from 0.
        question: text that the model is asked, without examples; possible answers only if they are part of that text.
        answer: the correct answer.
    """

    task: str
    number: int
    question: str
    answer: str


def questions_of(names: Sequence[str], folder: str | None = None, *, defaults: bool = False) -> list[Question]:
    """Return the questions of tasks in order. No network is needed if the tasks' data are local.

    Args:
        names: names of tasks, groups or tags; patterns such as `mmlu_*` are allowed.
        folder: folder with the user's own YAML tasks, or None.
        defaults: with a folder: also load the tasks of the harness.

    Raises:
        ConfigError: the harness is not installed, a task does not exist, or a task's data or template fails.
    """
    harness_version()
    with quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=folder, include_defaults=defaults or folder is None)
        found = matched_names(Tasks(names, folder, defaults), manager)
        try:
            loaded = dict(_tasks(manager.load_task_or_group(found)))
            return [question for name, task in sorted(loaded.items()) for question in _questions(name, task)]
        except CurateError:
            raise
        except Exception as error:  # a task's data, template or code
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"The lm-evaluation-harness cannot read {', '.join(found)}: {reason}") from error


def _tasks(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and task of nested groups."""
    for name, task in loaded.items():
        if isinstance(task, Mapping):
            yield from _tasks(task)
        elif task is not None:
            yield str(name), task


def _questions(name: str, task: Any) -> Iterator[Question]:
    random.seed(0)  # some tasks shuffle their choices
    for number, doc in enumerate(task.eval_docs):
        text, target = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = list(task.doc_to_choice(doc)) if task.config.doc_to_choice is not None else []
        if isinstance(text, int):  # the choices are beginnings of one sentence
            text, choices = "\n".join(map(str, choices)), []
        if isinstance(target, (list, tuple)):
            target = target[0] if target else ""
        if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices):
            target = choices[target]
        yield Question(name, number, str(text), str(target).strip())
