"""Read the rows of pools, and the questions of tasks, as questions and answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ...log import LOGGER
from ...samples import from_row
from ...store import Artifact
from ..inputs import Inputs
from ..pools import CONVERSATION
from .config import DecontaminateConfig
from .leaks import Held, Row
from .words import question_and_answer


def pool_rows(pool: Artifact, sample_ids: Collection[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a pool in order; with `sample_ids` only those of these samples."""
    for table in pool.tables(CONVERSATION):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                if sample_ids is None or row["sample_id"] in sample_ids:
                    yield Row(row["sample_id"], row["position"], *question_and_answer(from_row(row)))


def held_rows(pool: Artifact) -> list[Held]:
    """Return the rows of a held-out pool."""
    return [Held(row, pool.name) for row in pool_rows(pool)]


def task_rows(config: DecontaminateConfig, inputs: Inputs) -> list[Held]:
    """Return the questions of the tasks that `--against` names."""
    if not config.tasks:
        return []
    from ...lm.evaluation.questions import questions_of

    found: list[Held] = []
    questions = questions_of(config.tasks, inputs.locations.get("task_folder"), defaults=config.default_tasks)
    for each in questions:
        row = Row(f"{each.task}/{each.number}", each.number, each.question, each.answer)
        found.append(Held(row, f"task:{each.task}"))
    LOGGER.info(f"{len(found)} questions of {len({each.against for each in found})} tasks are held out.")
    return found


def against_pools(inputs: Inputs) -> Sequence[Artifact]:
    """Return the held-out pools in the order of `--against`."""
    found = {key: each for key, each in inputs.artifacts.items() if key.startswith("against.")}
    return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]
