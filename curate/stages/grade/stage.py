"""`curate grade`: say what is wrong with the texts of a pool, as columns of features and as a screen.

Numbers and flags become records of the table `features`, one per distinct sample. The file `grade.json` has what the
screen shows. The pool is read twice: first what its rows have in common, then each row. A stopped run starts again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import ConfigError
from ...log import bar
from ...store import Artifact, Draft
from ...store.artifacts.files import read_json, write_json
from ...store.catalog.scores import SCORES
from ...version import pip_install
from ..inputs import Inputs
from ..select.candidates import check_pool
from ..stage import Stage
from .config import GROUPS, GradeConfig
from .grading import COLUMNS, Grader
from .neighbours import Answers, agreement
from .scores import Scores, read_scores
from .screen import show_screen
from .signals import language, personal
from .survey import Survey
from .texts import Row, rows_of

EXAMPLES = """\
curate grade --pool pool
curate grade --pool pool --signals lengths,rules,copies --name g
curate grade --pool pool --features feats --neighbours 10 --scores judged.parquet --name g
curate subset --pool pool --sql "SELECT sample_id FROM features WHERE features = 'g' AND flags = ''" --name good
curate query "SELECT flags, count(*) AS n FROM features WHERE features = 'g' GROUP BY flags ORDER BY n DESC"
curate train --pool pool --features g --prescreen 0.5 --prescreen-by feature:answer_words --selector uds --model M \
--name tuned"""

RESULT = "grade.json"
"""File of the artifact that holds what the screen shows."""
EXTRA = "quality"
NEEDS = {"language": language.is_installed, "pii": personal.is_installed}
"""Group of columns -> whether the package that it needs is installed; the other groups need none."""
BLOCK = 5000
"""Records that are written at a time."""


def groups_of(config: GradeConfig) -> tuple[str, ...]:
    """Return the groups of columns that are measured: those that are named, or those whose packages are installed.

    Raises:
        ConfigError: the package of a group that is named is not installed.
    """
    missing = [name for name in GROUPS if name in NEEDS and not NEEDS[name]()]
    if config.signals is None:
        return tuple(name for name in GROUPS if name not in missing)
    if lacking := [name for name in config.signals if name in missing]:
        raise ConfigError(f"The package for --signals {lacking[0]} is not installed: {pip_install(EXTRA)}.")
    return tuple(name for name in GROUPS if name in config.signals)


def more_inputs(config: GradeConfig, inputs: Inputs) -> Mapping[str, str]:
    """Return the groups that are measured: which packages are installed decides the result."""
    if "features" in inputs.artifacts:
        check_pool(inputs.artifacts["features"], inputs.artifacts["pool"], "features")
    return {"groups": ",".join(groups_of(config))}


def run(config: GradeConfig, inputs: Inputs, draft: Draft) -> None:
    """Grade every distinct sample of the pool, block by block."""
    draft.restart()
    pool = inputs.artifacts["pool"]
    grader, survey = Grader(groups_of(config)), Survey(pool.rows or 0)
    answers = Answers()
    for row in _shown(rows_of(pool), pool, "read"):
        survey.count(row)
        grader.learn(row)
        if row.sample_id not in answers.row_of:
            answers.add(row.sample_id, row.answer if config.features is not None else "")
    scores = _scores(config, inputs, answers)
    near: Mapping[str, float] = {}
    if config.features is not None:
        near = agreement(inputs.artifacts["features"], config.on, config.neighbours, answers)
    records: list[dict[str, Any]] = []
    for number, row in enumerate(_distinct(_shown(rows_of(pool), pool, "grade"))):
        grades, flags = grader.grade(row)
        grades |= {"neighbour_agreement": near.get(row.sample_id), "scores": scores.of(row.sample_id)}
        survey.add(row, grades, flags)
        records.append(grades)
        if len(records) == BLOCK:
            _write(draft, records, number // BLOCK)
    _write(draft, records, len(answers.row_of) // BLOCK)
    found = survey.result(grader)
    found |= {
        "not_installed": [name for name in GROUPS if name in NEEDS and not NEEDS[name]() and config.signals is None],
        "scores": {name: sum(name in dict(scores.of(each) or ()) for each in answers.row_of) for name in scores.names},
        "neighbours": len(near) if config.features is not None else None,
    }
    write_json(draft.files / RESULT, found)
    draft.rows = len(answers.row_of)
    draft.summary = {"samples": draft.rows, "with flags": found["flagged"], "flags": found["flags"]}
    if scores.names:
        draft.summary[SCORES] = list(scores.names)


def _shown(rows: Iterator[Row], pool: Artifact, label: str) -> Iterator[Row]:
    with bar(total=pool.rows, label=f"{label} {pool.name}", unit="row") as progress:
        for row in rows:
            yield row
            progress.update()


def _distinct(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield each sample where it comes first."""
    seen: set[str] = set()
    for row in rows:
        if row.sample_id not in seen:
            seen.add(row.sample_id)
            yield row


def _scores(config: GradeConfig, inputs: Inputs, answers: Answers) -> Scores:
    return Scores() if config.scores is None else read_scores(Path(inputs.locations["scores"]), answers.row_of)


def _write(draft: Draft, records: list[dict[str, Any]], number: int) -> None:
    """Write the records of a block, and empty the list."""
    if records:
        draft.add("features", pa.Table.from_pylist(records, schema=COLUMNS), key=f"{number:05d}")
        records.clear()


def show(config: GradeConfig, artifact: Artifact) -> str:
    """Return the screen."""
    path = artifact.files / RESULT
    return show_screen(read_json(path), path, config.pool, artifact.name)


STAGE = Stage(GradeConfig, run, EXAMPLES, more_inputs=more_inputs, show=show)
