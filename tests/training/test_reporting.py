"""Trackers get the log of a run with curves of the selection, and the store has the same result without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback

from curate import Artifact, make
from curate.errors import ConfigError, TrainingError
from curate.store import Store
from curate.training.trackers.curves import SelectionCurves
from curate.training.trackers.destinations import sends_away
from curate.training.trackers.reporting import guard_trackers, prepare_trackers, tracker_names
from tests.support.training import rows

SMALL = {"candidates": 8, "keep": 4, "max_steps": 4, "max_length": 64, "logging_steps": 2, "save_steps": 4}
SOURCES = ("math", "a/../b", "код", "org/set")


@pytest.fixture
def local_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that the trackers write to, and no address of a service in the environment."""
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "DATABRICKS_RUNTIME_VERSION", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path


def pool(store: Store, folder: Path) -> Artifact:
    lines = [
        f'{{"prompt": "say {i}", "completion": "{"word " * (1 + i % 5)}", "source": "{SOURCES[i % 4]}"}}'
        for i in range(64)
    ]
    (folder / "pool.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")])


def train(store: Store, tiny: str, *trackers: str) -> Artifact:
    return make(store, "train", name="run", pool="pool", model=tiny, report_to=trackers, **SMALL)


def history(store: Store) -> list[dict[str, Any]]:
    found = rows(store, "SELECT step, metric, value FROM metrics ORDER BY ALL")
    return [row for row in found if not row["metric"].startswith("seconds_") and row["metric"] != "step_seconds"]


def expected(store: Store, step: int) -> dict[str, float]:
    """The curves of the two steps up to `step`, by SQL over the ledger."""
    (found,) = rows(
        store,
        f"""SELECT quantile_cont(score, 0.1) score_p10, quantile_cont(score, 0.5) score_p50,
                   quantile_cont(score, 0.9) score_p90, avg(loss) FILTER (kept) loss_kept,
                   avg(loss) FILTER (NOT kept) loss_dropped, avg(kept::INT) kept_share,
                   avg(parts['diversity']) FILTER (kept) diversity_kept,
                   avg(parts['diversity']) FILTER (NOT kept) diversity_dropped
            FROM ledger WHERE step IN ({step - 1}, {step})""",
    )
    return {f"selection/{name}": value for name, value in found.items()}


def require_curves(store: Store, found: dict[int, dict[str, float]], shares: list[str]) -> None:
    """Compare what a tracker has, step -> metric -> value, with the ledger."""
    for step in (2, 4):
        for name, value in expected(store, step).items():
            assert found[step][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
        assert sum(found[step].get(f"kept_share/{label}", 0.0) for label in shares) == pytest.approx(1.0)
        assert {"selection/seconds_scoring_forward", "selection/seconds_training", "loss"} <= found[step].keys()


def test_trackers_get_the_curves_of_the_ledger_and_the_store_gets_nothing_of_them(
    store: Store, tiny: str, tmp_path: Path, local_trackers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pool(store, tmp_path)
    run = train(store, tiny, "tensorboard", "mlflow")
    assert capsys.readouterr().out == ""
    client = MlflowClient()
    (of_mlflow,) = client.search_runs(["0"])
    assert of_mlflow.info.run_name == "run" and of_mlflow.info.status == "FINISHED"
    found: dict[int, dict[str, float]] = {}
    for name in of_mlflow.data.metrics:
        for point in client.get_metric_history(of_mlflow.info.run_id, name):
            found.setdefault(point.step, {})[name] = point.value
    names = tracker_names([f"kept_share/{label}" for label in SOURCES], ["mlflow"])
    require_curves(store, found, [name.partition("/")[2] for name in names.values()])
    events = EventAccumulator(str(local_trackers / "events")).Reload()
    points = {name: events.Scalars(name) for name in events.Tags()["scalars"] if name.startswith("train/")}
    in_board: dict[int, dict[str, float]] = {}
    for name, values in points.items():
        for each in values:
            in_board.setdefault(each.step, {})[name.removeprefix("train/")] = each.value
    require_curves(store, in_board, [name.partition("/")[2] for name in names.values()])
    plain = Store(tmp_path / "plain")
    pool(plain, tmp_path)
    assert train(plain, tiny).fingerprint == run.fingerprint and history(plain) == history(store)
    assert any(row["metric"] == "kept_share/a/../b" for row in history(store))


def test_trackio_gets_them_too(store: Store, tiny: str, tmp_path: Path, local_trackers: Path) -> None:
    pytest.importorskip("trackio", reason="trackio needs pillow < 13, and the pinned environment has pillow 13")
    from trackio.sqlite_storage import SQLiteStorage

    pool(store, tmp_path)
    train(store, tiny, "trackio")
    found: dict[int, dict[str, float]] = {}
    for point in SQLiteStorage.get_logs("curate", "run"):
        values = {name.removeprefix("train/"): value for name, value in point.items() if name.startswith("train/")}
        if "loss" in values:
            found[int(values["global_step"])] = values
    require_curves(store, found, list(SOURCES))


def test_curves_are_of_the_candidates_since_the_last_call() -> None:
    seconds = {"training": 1.0}
    curves = SelectionCurves(lambda: seconds)
    curves.add({"kept": np.array([True, False]), "score": np.array([3.0, np.nan]), "loss": None, "parts": {}})
    both = {"score": np.array([5.0, 1.0]), "loss": np.array([2.0, 4.0]), "parts": {"x": np.ones(2)}}
    curves.add({"kept": np.array([True, False]), **both})
    assert curves.metrics() == {
        "selection/kept_share": 0.5,
        "selection/score_p10": pytest.approx(1.4),
        "selection/score_p50": 3.0,
        "selection/score_p90": pytest.approx(4.6),
        "selection/loss_kept": 2.0,
        "selection/loss_dropped": 4.0,
        "selection/x_kept": 1.0,
        "selection/x_dropped": 1.0,
        "selection/seconds_training": 1.0,
    }
    seconds["training"] = 1.5
    assert curves.metrics() == {"selection/seconds_training": 0.5}
    curves.add({"kept": np.array([True]), "score": None, "loss": None, "parts": {}})
    assert curves.metrics() == {"selection/kept_share": 1.0, "selection/seconds_training": 0.0}


HOSTILE = (
    "..",
    "../x",
    "/etc/passwd",
    "a//b",
    "a/",
    "",
    " ",
    ".",
    "x" * 500,
    "x" * 501,
    "\u0000",
    "код",
    "дом",
    "a/./b",
    "💥",
)


def test_mlflow_takes_a_metric_of_any_label_and_no_two_become_one() -> None:
    validation = pytest.importorskip("mlflow.utils.validation")
    names = tracker_names([f"kept_share/{label}" for label in HOSTILE], ["mlflow"])
    assert len({*names.values()}) == len(HOSTILE)
    for name in names.values():
        validation._validate_metric_name(name)
    assert tracker_names(["kept_share/org/set"], ["mlflow"]) == {"kept_share/org/set": "kept_share/org/set"}
    assert tracker_names(["kept_share/код"], ["tensorboard"]) == {"kept_share/код": "kept_share/код"}


class Writer:
    """A TensorBoard writer that fails when it gets a number."""

    calls = 0

    def add_text(self, *args: Any) -> None:
        """Accept."""

    def add_scalar(self, *args: Any) -> None:
        Writer.calls += 1
        raise OSError("disk\nis full")


def test_a_tracker_that_fails_later_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(logging.getLogger("curate"), "propagate", True)
    monkeypatch.setattr(Writer, "calls", 0)
    callback = TensorBoardCallback(tb_writer=Writer())
    guard_trackers([callback], ["tensorboard"])
    arguments, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(global_step=7)
    for _ in range(3):
        callback.on_log(arguments, state, TrainerControl(), logs={"loss": 1.0})
    assert Writer.calls == 1
    assert caplog.text.count("tensorboard gets no more of this run after step 7, the store does: disk is full") == 1


def test_a_tracker_that_cannot_begin_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    callback = TensorBoardCallback(tb_writer=Writer())
    monkeypatch.setattr(Writer, "add_text", lambda *args: 1 / 0)
    guard_trackers([callback], ["tensorboard"])
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(TrainingError, match="--report-to tensorboard does not work: division by zero"):
        callback.on_train_begin(arguments, TrainerState(), TrainerControl())


def test_mlflow_needs_a_database_only_where_it_writes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    pytest.importorskip("mlflow")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"--report-to mlflow needs the package sqlalchemy: pip install .*\[mlflow\]"):
        prepare_trackers(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracker.example")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    prepare_trackers(["mlflow"])
    import os

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    ("environment", "away"),
    [
        ({}, {"wandb"}),
        ({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}, {"wandb"}),
        ({"MLFLOW_TRACKING_URI": "runs"}, {"wandb"}),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, {"wandb", "mlflow"}),
        ({"MLFLOW_TRACKING_URI": "databricks"}, {"wandb", "mlflow"}),
        ({"MLFLOW_TRACKING_URI": "postgresql://h/d"}, {"wandb", "mlflow"}),
        ({"TRACKIO_SPACE_ID": "me/x"}, {"wandb", "trackio"}),
        ({"TRACKIO_SERVER_URL": "https://x"}, {"wandb", "trackio"}),
    ],
)
def test_the_environment_decides_whether_a_tracker_sends_away(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], away: set[str]
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    services = ("none", "tensorboard", "mlflow", "trackio", "wandb", "unknown")
    assert {service for service in services if sends_away(service)} == away | {"unknown"}
