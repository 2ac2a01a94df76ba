"""`curate advise`: which data and which selector to use within a budget, and whether it is worth it.

Short runs race against controls, and the winner is judged on seeds and held-out rows that no round of the race had.
Every pool, subset, run and evaluation is an ordinary artifact of the store, so a stopped race continues and a larger
budget finds what exists. The advice holds the result, and in SQL the runs that it rests on.
"""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, DataError
from ...log import LOGGER, repeats_left_out
from ...store import Artifact, Draft, Store
from ...store.artifacts.files import read_json, write_json, write_text
from .. import build_config, run_stage
from ..inputs import Inputs, locate, resolve
from ..stage import Stage
from .config import AdviseConfig
from .costs import estimate
from .methods import candidates_of
from .notes import notes_of
from .plan import plan_race
from .race import Race, require_rows
from .result import result_of, write_tables
from .show import show_plan, show_result
from .tasks import HELD_OUT_ROWS, HELD_OUT_SHARE, Tasks

EXAMPLES = """\
curate advise --pool pool --model M --time 1h --name advice
curate advise --pool pool --model M --target gsm8k --tokens 2e6 --share 0.2 --methods rds,tfidf --name advice
curate advise --pool pool --model M --time 1h --train max_length=256,learning_rate=5e-4 --dry-run --name advice
curate advise --pool pool --model M --time 4h --apply tuned --name advice"""

RESULT = "advice.json"
"""File of the artifact that holds the whole result."""


def check(config: AdviseConfig) -> None:
    """Raise `ConfigError` for a method that does not exist or needs a target that is not given."""
    candidates_of(config.methods, with_target=config.target is not None)


def preview(config: AdviseConfig, store: Store) -> str | None:
    """Return the plan for `--dry-run`, and None without it. Nothing is written."""
    if not config.dry_run:
        return None
    inputs = resolve(store, config)
    _check_inputs(config, inputs)
    tasks = _tasks(config, inputs)
    costs = estimate(config, inputs, tasks)
    source = tasks.eval_pool or tasks.target or tasks.pool
    share = 0.5 if tasks.eval_pool else 0.25 if tasks.target else HELD_OUT_SHARE
    rows = int(min(HELD_OUT_ROWS if not tasks.eval_pool else 1e9, share * (source.rows or 0)))
    require_rows(rows, "race")
    candidates = candidates_of(config.methods, with_target=config.target is not None)
    return show_plan(config, plan_race(config, candidates, costs, rows), costs)


def more_inputs(config: AdviseConfig, inputs: Inputs) -> dict[str, str]:
    """Return the fingerprint of a chat template, after the inputs are checked: nothing has been made by then."""
    if config.dry_run:
        raise ConfigError("--dry-run makes nothing: it is for the command line, not for a pipeline.")
    _check_inputs(config, inputs)
    if config.apply is not None:
        _check_free(config, inputs.store)
    given = config.train.get("chat_template")
    return {"chat_template": locate(inputs.store, given, kind="template")[1]} if isinstance(given, str) else {}


def run(config: AdviseConfig, inputs: Inputs, draft: Draft) -> None:
    """Race, judge, and write what is advised."""
    race = Race.begin(config, inputs, draft, _tasks(config, inputs))
    try:
        with repeats_left_out():
            plan = race.plan()
            race.tell(plan)
            winner = race.run(plan)
    finally:
        race.artifacts.close()
    result = result_of(race, plan, winner, notes_of(race, plan, winner.label))
    write_json(draft.files / RESULT, result)
    write_text(draft.files / "advice.md", show_result(result, "markdown") + "\n")
    write_tables(draft, result)
    draft.rows = len(result["runs"])
    draft.summary = {"advised": result["advised"], "verdict": result["sentence"], "full run": result["command"]}


def show(config: AdviseConfig, artifact: Artifact) -> str:
    """Return the result in the format of `--format`."""
    return show_result(read_json(artifact.files / RESULT), config.format)


def deliver(config: AdviseConfig, artifact: Artifact) -> None:
    """Make the run that is advised, if `--apply` names it."""
    if config.apply is not None:
        values: dict[str, Any] = {**read_json(artifact.files / RESULT)["full"], "name": config.apply}
        run = run_stage(Store(artifact.path.parents[2]), "train", build_config("train", values))
        LOGGER.info(f"The run that is advised is '{config.apply}': {run.summary.get('kept')}.")


def _tasks(config: AdviseConfig, inputs: Inputs) -> Tasks:
    found = inputs.artifacts
    return Tasks(config, found["pool"], found.get("target"), found.get("eval_pool"))


def _check_inputs(config: AdviseConfig, inputs: Inputs) -> None:
    """Raise an error if a held-out pool has the rows of a pool that is trained on."""
    found = inputs.artifacts
    eval_pool = found.get("eval_pool")
    if eval_pool is None:
        if "target" in found and _inside(found["target"], found["pool"]) and _inside(found["pool"], found["target"]):
            raise DataError(
                f"The target '{config.target}' has the same samples as the pool '{config.pool}': name a pool of "
                "examples of what the model should learn, or leave --target out."
            )
        return
    for field in ("pool", "target"):
        if field in found and _inside(eval_pool, found[field]):
            name = found[field].name
            raise DataError(
                f"All samples of the held-out pool '{config.eval_pool}' are in the {field} '{name}', so none is held "
                f"out. Leave --eval-pool out, and rows of '{name}' are held out; or give a pool without them."
            )


def _inside(inner: Artifact, outer: Artifact) -> bool:
    """Return whether all samples of a pool are in another one."""
    known = {sample_id for table in outer.tables(["sample_id"]) for sample_id in table["sample_id"].to_pylist()}
    return all(
        sample_id in known for table in inner.tables(["sample_id"]) for sample_id in table["sample_id"].to_pylist()
    )


def _check_free(config: AdviseConfig, store: Store) -> None:
    """Raise `ConfigError` if the name of `--apply` is taken by something else than a run of this advice."""
    name = str(config.apply)
    if not store.has(name):
        return
    taken = store.get(name)
    train = f"{config.name}-train"
    own = taken.stage == "train" and taken.config.get("pool") in (train, f"{config.name}-target")
    if not own:
        raise ConfigError(
            f"--apply {name} is the name of another artifact, made by {taken.stage}: give another one. Nothing is made."
        )


STAGE = Stage(
    AdviseConfig, run, EXAMPLES, more_inputs=more_inputs, check=check, show=show, deliver=deliver, preview=preview
)
