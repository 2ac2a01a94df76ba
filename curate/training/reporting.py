"""Send the log of a run to trackers, such as TensorBoard or MLflow, with curves of the selection.

The Trainer's own callbacks do the sending. The store gets no part of it, so a run has the same result with and without
trackers: its ledger has every score, from which the same curves can be computed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..errors import ConfigError, CurateError, TrainingError
from ..lm.model.boundary import reason_of
from ..log import LOGGER
from ..runtime.trackers import mlflow_is_local
from ..version import pip_install

Floats = npt.NDArray[np.float64]

QUANTILES = (10, 50, 90)
"""Percentiles of the scores that trackers get."""

DATABASE = ("sqlalchemy", "alembic")
"""Packages with which MLflow writes a local database; mlflow-skinny is installed without them."""

NO_USAGE_DATA = {"MLFLOW_DISABLE_TELEMETRY": "true", "GRADIO_ANALYTICS_ENABLED": "False"}
"""Variables that keep libraries of trackers from reporting usage data to their makers."""

LONGEST = 100
"""Largest number of characters of a label in the name of a metric; MLflow takes 250 for the whole name."""


class SelectionCurves:
    """Scores, losses and seconds of the selection since the last log entry.

    With `--scope rank` they are those of the first process. After a resume the first entry covers the steps since then.

    Args:
        seconds: function that returns the seconds of the run so far, by part of a step.
    """

    def __init__(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        self._seconds = seconds
        self._charged: dict[str, float] = {}
        self._kept: list[npt.NDArray[np.bool_]] = []
        self._columns: dict[str, list[Floats]] = {}

    def add(self, kept: npt.NDArray[np.bool_], columns: Mapping[str, Floats | None]) -> None:
        """Add the candidates of a step.

        Args:
            kept: (B,) which of them are kept.
            columns: (B,) values by name, such as `score` and `loss`; NaN where there is none. None: not measured.
        """
        for name, values in columns.items():
            if values is not None and name not in self._columns:
                self._columns[name] = [np.full(len(each), np.nan) for each in self._kept]
        self._kept.append(kept)
        for name, found in self._columns.items():
            values = columns.get(name)
            found.append(np.full(len(kept), np.nan) if values is None else np.asarray(values, np.float64))

    def metrics(self) -> dict[str, float]:
        """Return the curves since the last call.

        `selection/kept_share` is the share of the candidates that were kept; `selection/score_p10` and so on are
        percentiles of the scores; `selection/X_kept` and `selection/X_dropped` are means over the kept and the other
        candidates of the loss (nats) and of each part of the score, such as diversity; `selection/seconds_X` are the
        seconds spent in a part of the steps.
        """
        found: dict[str, float] = {}
        if self._kept:
            kept = np.concatenate(self._kept)
            found["kept_share"] = float(kept.mean())
            for name, parts in self._columns.items():
                found |= _of_column(name, np.concatenate(parts), kept)
        for part, spent in self._seconds().items():
            found[f"seconds_{part}"] = spent - self._charged.get(part, 0.0)
        self._charged = dict(self._seconds())
        self._kept, self._columns = [], {}
        return {f"selection/{name}": value for name, value in found.items()}


def _of_column(name: str, values: Floats, kept: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return percentiles of scores, or the means over the kept and the other candidates of another column."""
    known = np.isfinite(values)
    if name == "score":
        found = np.percentile(values[known], QUANTILES) if known.any() else ()
        return {f"score_p{percent}": float(value) for percent, value in zip(QUANTILES, found, strict=False)}
    groups = {f"{name}_kept": known & kept, f"{name}_dropped": known & ~kept}
    return {which: float(values[rows].mean()) for which, rows in groups.items() if rows.any()}


def tracker_names(metrics: Sequence[str], services: Sequence[str]) -> dict[str, str]:
    """Return the name that each metric has in the trackers.

    A metric may end with a label of the pool, and MLflow refuses all metrics of a step if one has a name that it does
    not allow. With MLflow such a label is written with the characters that it allows and a digest of the whole label.
    """
    return {name: _allowed(name) if "mlflow" in services else name for name in metrics}


def _allowed(name: str) -> str:
    kind, slash, label = name.partition("/")
    plain = re.sub(r"[^0-9A-Za-z_. /-]", "_", label)[:LONGEST]
    if posixpath.normpath(plain) != plain or plain.startswith((".", "/")):
        plain = plain.replace("/", "_").strip(".")
    if not slash or (label and plain == label):
        return name
    return f"{kind}{slash}{plain}-{hashlib.sha256(label.encode(errors='surrogatepass')).hexdigest()[:8]}"


def prepare_trackers(services: Sequence[str]) -> None:
    """Check that the packages of trackers are installed, and turn off the usage data that these would send.

    Raises:
        ConfigError: a package is missing or broken.
    """
    for name, value in NO_USAGE_DATA.items():
        os.environ.setdefault(name, value)
    for service in services:
        for package in (service, *(DATABASE if service == "mlflow" and _needs_database() else ())):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                missing = error.name or package
                raise ConfigError(
                    f"--report-to {service} needs the package {missing}: {pip_install(service)}."
                ) from None
            except Exception as error:  # a broken package may raise anything
                raise ConfigError(
                    f"--report-to {service}: the package {package} cannot be imported ({reason_of(error)}). Install it "
                    "again, or leave the option out."
                ) from error


def _needs_database() -> bool:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return mlflow_is_local() and not uri.startswith("file:")


def guard_trackers(callbacks: Sequence[Any], services: Sequence[str]) -> None:
    """Let no tracker end a run that has begun: a tracker that fails later is left out, after a warning.

    Args:
        callbacks: the callbacks of a Trainer, of which those of the trackers are changed.
        services: names of the trackers.
    """
    classes = {INTEGRATION_TO_CALLBACK[service]: service for service in services}
    for callback in callbacks:
        if type(callback) in classes:
            _guard(callback, classes[type(callback)])


def _guard(callback: Any, service: str) -> None:
    """Wrap the methods of a tracker's callback; after an error it is not called again."""
    failed: list[Exception] = []

    def call(event: str, method: Callable[..., Any], args: Any, state: TrainerState, *more: Any, **rest: Any) -> Any:
        if failed:
            return None
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some print what they do
                return method(args, state, *more, **rest)
        except CurateError:
            raise
        except Exception as error:
            reason = reason_of(error)
            if event == "on_train_begin":
                raise TrainingError(
                    f"--report-to {service} does not work: {reason}. Correct the settings of {service}, or leave the "
                    "option out; then run the same command again."
                ) from error
            failed.append(error)
            LOGGER.warning(
                f"{service} gets no more of this run after step {state.global_step}, the store does: {reason}"
            )
            return None

    for event in dir(TrainerCallback):
        if event.startswith("on_"):
            setattr(callback, event, functools.partial(call, event, getattr(callback, event)))
