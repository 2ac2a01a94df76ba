"""Generated answers and the tasks of the harness, on a model that was trained to know some answers by heart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import make
from curate.errors import ConfigError, DataError
from curate.store import Store
from tests.support.paths import ROOT
from tests.support.ranks import Ranks

OPTIONS: dict[str, Any] = {"pool": "facts", "max_length": 100, "max_new_tokens": 20}
FACTS = {
    "Capital of red?": "Blue 7",
    "And of the green one, in a long question?": "no more than 1,200.50",
    "Add 4 and 8.": "12",
    "Who?": "me and you",
    "Where to, and when, and why?": "3 o'clock",
    "Say it.": "It.",
}
WRONG = {"Who?": "nobody", "Add 4 and 8.": "13"}
"""Answers in the pool that the model has not learned."""


def write(path: Path, facts: dict[str, str], **more: Any) -> str:
    lines = [json.dumps({"instruction": ask, "input": "", "output": say, **more}) for ask, say in facts.items()]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Store:
    """A run that knows FACTS, and a pool with the same questions, two of which have another reference answer."""
    folder = tmp_path_factory.mktemp("answers")
    store = Store(folder / "store")
    make(store, "ingest", name="known", data=[write(folder / "known.jsonl", FACTS)])
    make(store, "ingest", name="facts", data=[write(folder / "facts.jsonl", FACTS | WRONG)])
    options = {"max_length": 100, "selector": "full", "candidates": 6, "keep": 6, "lr_scheduler_type": "constant"}
    make(store, "train", name="run", pool="known", model=tiny, full=True, learning_rate=1e-2, max_steps=80, **options)
    make(store, "train", name="adapter", pool="known", model=tiny, learning_rate=1e-2, max_steps=2, **options)
    return store


def results(store: Store, name: str) -> dict[str, dict[str, Any]]:
    sql = "SELECT * FROM evaluations WHERE evaluation = $name AND grouped_by IS NULL"
    return {row["metric"]: row for row in store.query(sql, {"name": name}).to_pylist()}


def test_generated_answers_are_right_where_the_model_knows_them(world: Store, tiny: str) -> None:
    metric = ["exact_match", "last_number"]
    make(world, "evaluate", name="knows", model="run", metric=metric, generate_batch_size=4, **OPTIONS)
    found = results(world, "knows")
    assert found["exact_match"]["value"] == pytest.approx(4 / 6)
    assert found["exact_match"]["stderr"] == pytest.approx(np.std([1, 1, 1, 1, 0, 0], ddof=1) / 6**0.5)
    assert (found["last_number"]["value"], found["last_number"]["samples"]) == (pytest.approx(3 / 4), 4)
    answers = world.query(
        "SELECT a.metric, c.messages[1].content AS ask, a.prediction, a.reference, a.correct, a.loss FROM answers a "
        "JOIN conversations c ON c.sample_id = a.sample_id AND c.pool = a.task WHERE evaluation = 'knows'"
    ).to_pylist()
    generated = {row["ask"]: row for row in answers if row["metric"] == "exact_match"}
    assert {ask: row["prediction"] for ask, row in generated.items()} == FACTS
    assert {ask: row["reference"] for ask, row in generated.items()} == FACTS | WRONG
    assert {ask for ask, row in generated.items() if not row["correct"]} == set(WRONG)
    assert generated["Who?"]["loss"] > generated["Say it."]["loss"] > 0
    rejects = world.query("SELECT reason, count(*) AS n FROM rejects WHERE artifact = 'knows' GROUP BY ALL").to_pylist()
    assert rejects == [{"reason": "no number in the reference answer", "n": 2}]
    make(world, "evaluate", name="guesses", model=tiny, metric=["exact_match"], **OPTIONS)
    assert results(world, "guesses")["exact_match"]["value"] == 0


def test_the_reference_may_be_a_column_and_samples_without_one_are_rejected(
    world: Store, tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (dict([fact]) for fact in list(FACTS.items())[1:3])
    data = [write(tmp_path / "x.jsonl", first, number=1200.5), write(tmp_path / "y.jsonl", second, number=None)]
    (tmp_path / "z.jsonl").write_text(json.dumps({"text": "Just text.", "number": 3}) + "\n")
    make(world, "ingest", name="numbers", data=[*data, str(tmp_path / "z.jsonl")])
    options = {**OPTIONS, "pool": "numbers", "model": "run", "metric": ["last_number"]}
    make(world, "evaluate", name="columns", answer_column="number", **options)
    found = results(world, "columns")
    assert (found["last_number"]["value"], found["last_number"]["samples"]) == (1, 1) and found["loss"]["samples"] == 3
    assert "nothing in column number (1), no assistant turn at the end (1)" in caplog.text
    assert "2 rows of 'known' hold 2 of the 3 rows of 'numbers'" in caplog.text
    with pytest.raises(DataError, match=r"2 rows of 'known' hold 2 of the 3 rows of 'numbers'.*Without --strict"):
        make(world, "evaluate", name="columns", answer_column="number", strict=True, **options)
    untrained = {**options, "model": tiny, "by": ["number"]}
    with pytest.raises(DataError, match=r"cannot be measured: nothing in column number \(1\).*Without --strict"):
        make(world, "evaluate", name="strict", answer_column="number", strict=True, **untrained)
    with pytest.raises(ConfigError, match=r"has no column 'numer'\. Did you mean 'number'"):
        make(world, "evaluate", name="none", answer_column="numer", **options)
    with pytest.raises(
        DataError, match=r"last_number cannot be measured on any sample of .*: no room for prompt and answer \(2"
    ):
        make(world, "evaluate", name="short", **{**options, "max_new_tokens": 128})


def test_results_join_with_the_run_that_made_the_model(world: Store, tiny: str) -> None:
    for name, model in (("of-run", "run"), ("of-adapter", "adapter"), ("of-neither", tiny)):
        make(world, "evaluate", name=name, model=model, **OPTIONS)
    rows = world.query(
        "SELECT evaluation, e.run, count(DISTINCT step) AS steps FROM evaluations e LEFT JOIN ledger l USING (run) "
        "WHERE evaluation LIKE 'of-%' AND grouped_by IS NULL GROUP BY ALL ORDER BY evaluation"
    ).to_pylist()
    assert rows == [
        {"evaluation": "of-adapter", "run": "adapter", "steps": 2},
        {"evaluation": "of-neither", "run": None, "steps": 0},
        {"evaluation": "of-run", "run": "run", "steps": 80},
    ]
    question = ROOT / "store" / "queries" / "evaluations.sql"
    asked = {row["evaluation"]: row for row in world.query(question.read_text()).to_pylist() if row["metric"] == "loss"}
    assert (asked["of-run"]["selector"], asked["of-run"]["steps"]) == ("full", 80)
    assert asked["of-neither"]["steps"] is None
    assert asked["of-run"]["value"] < asked["of-neither"]["value"]
    assert world.get("of-run").inputs["model"] == world.get("run").fingerprint


def test_a_stopped_evaluation_goes_on_at_the_next_shard_and_ends_the_same(
    world: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from curate.stages.evaluate.shard import Evaluator

    options = {**OPTIONS, "model": str(world.get("run").files), "metric": ["exact_match"], "shard_rows": 2}
    whole = results(world, make(world, "evaluate", name="whole", **options).name)
    other, call, shards = Store(tmp_path / "store"), Evaluator.__call__, []

    def stopping(self: Evaluator, task: int, advance: Any) -> Any:
        shards.append(task)
        if len(shards) == 2:
            raise KeyboardInterrupt
        return call(self, task, advance)

    monkeypatch.setattr(Evaluator, "__call__", stopping)
    make(other, "ingest", name="facts", data=list(world.get("facts").config["data"]))
    with pytest.raises(KeyboardInterrupt):
        make(other, "evaluate", name="whole", **options)
    again = results(other, make(other, "evaluate", name="whole", **options).name)
    assert shards == [0, 1, 1, 2] and again == whole


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{ask}}}}"
doc_to_target: {target}
target_delimiter: ""
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task to generate, and one to choose."""
    folder = tmp_path_factory.mktemp("tasks")
    data = [{"ask": ask, "say": say, "right": index} for index, (ask, say) in enumerate(FACTS.items())]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    write = TASK.format(
        name="recall", target="say", data=folder / "data.jsonl", kind="generate_until", metric="exact_match"
    )
    stop = 'generation_kwargs:\n  until: ["<|im_end|>"]\n  max_gen_toks: 20\n'
    choose = TASK.format(
        name="choose", target="right", data=folder / "data.jsonl", kind="multiple_choice", metric="acc"
    )
    (folder / "recall.yaml").write_text(write + stop)
    (folder / "choose.yaml").write_text(choose + f"doc_to_choice: {json.dumps(list(FACTS.values()))}\n")
    return folder


def test_tasks_of_a_folder_are_run_by_the_harness(world: Store, tasks: Path, curate: Callable[..., Any]) -> None:
    pytest.importorskip("lm_eval")
    command = ["evaluate", "--model", "run", "--tasks", "recall,choose", "--task-folder", str(tasks), "--store"]
    outcome = curate(*command, str(world.root), "--apply-chat-template", "--limit", "5", "--name", "tasks")
    assert outcome.code == 0 and outcome.out.startswith("results\n"), outcome.err
    assert all(len(line.split()) >= 5 for line in outcome.out.splitlines()[3:])
    found = world.query("SELECT task, metric, value, samples, run FROM evaluations WHERE evaluation = 'tasks'")
    assert {row["task"]: row for row in found.to_pylist()} == {
        "recall": {"task": "recall", "metric": "exact_match", "value": 1.0, "samples": 5, "run": "run"},
        "choose": {"task": "choose", "metric": "acc", "value": 1.0, "samples": 5, "run": "run"},
    }
    answers = world.query("SELECT * FROM answers WHERE evaluation = 'tasks' AND task = 'recall'").to_pylist()
    assert (
        {row["prediction"] for row in answers} == {row["reference"] for row in answers} == set(list(FACTS.values())[:5])
    )
    assert all(row["correct"] for row in answers) and len({row["sample_id"] for row in answers}) == 5


def test_tasks_and_a_pool_go_together_on_an_adapter(world: Store, tasks: Path) -> None:
    pytest.importorskip("lm_eval")
    made = make(world, "evaluate", name="both", model="adapter", tasks=["choose"], task_folder=str(tasks), **OPTIONS)
    found = results(world, "both")
    assert set(found) == {"loss", "acc"} and found["acc"]["value"] < 1 and found["acc"]["samples"] == 6
    assert made.inputs["lm_eval"] and made.rows == 12


def test_an_unknown_task_and_a_missing_harness_are_errors(
    world: Store, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    options = {"model": "run", "task_folder": str(tasks)}
    with pytest.raises(ConfigError, match=r"There is no task 'recal' in .*Did you mean 'recall'"):
        make(world, "evaluate", name="no", tasks=["recal"], **options)
    import curate.lm.evaluation.harness as harness

    def missing(name: str) -> str:
        raise harness.PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", missing)
    with pytest.raises(ConfigError, match=r'pip install "curate-sft\[eval\]"'):
        make(world, "evaluate", name="no", tasks=["recall"], **options)


def test_the_processes_of_a_launch_share_out_an_evaluation(ranks: Ranks, world: Store, tmp_path: Path) -> None:
    model = str(world.get("run").files)
    stores = [Store(tmp_path / name) for name in ("alone", "together")]
    for store in stores:
        make(store, "ingest", name="facts", data=list(world.get("facts").config["data"]))
    one = make(stores[0], "evaluate", name="e", model=model, metric=["exact_match"], shard_rows=2, **OPTIONS)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = ["evaluate", "--name=e", "--model", model, "--metric=exact_match", "--shard-rows=2", *flags]
    done = ranks.run(tmp_path, *command, f"--store={stores[1].root}")
    assert done.returncode == 0, done.stderr
    two = stores[1].get("e")
    assert two.fingerprint == one.fingerprint and results(stores[1], "e") == results(stores[0], "e")
    assert [path.read_bytes() for path in two.shards()] == [path.read_bytes() for path in one.shards()]


def test_the_questions_of_tasks_are_held_out(world: Store, tasks: Path, tmp_path: Path) -> None:
    (ask, say), (other, _) = list(FACTS.items())[:2]
    data = write(tmp_path / "mixed.jsonl", {f"{ask}  ": "x", other.upper(): "y", "Nothing of the kind": say})
    make(world, "ingest", name="mixed", data=data)
    options = {"pool": "mixed", "against": ["task:recall", "task:choose"], "task_folder": str(tasks)}
    made = make(world, "decontaminate", name="clean", **options)
    assert made.rows == 1 and made.summary["held-out rows"] == 2 * len(FACTS)
    leaks = world.query("SELECT position, against, against_sample_id FROM leaks ORDER BY ALL").to_pylist()
    expected = [(n, f"task:{task}", f"{task}/{n}") for n in (0, 1) for task in ("choose", "recall")]
    assert [tuple(leak.values()) for leak in leaks] == expected
    with pytest.raises(ConfigError, match=r"There is no task 'recal'.* Did you mean 'recall'"):
        make(world, "decontaminate", name="no", **{**options, "against": ["task:recal"]})
