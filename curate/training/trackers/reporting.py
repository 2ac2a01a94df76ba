"""Report to trackers with the Trainer's own callbacks: check them before a run, and let none of them end it later."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import posixpath
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ...errors import ConfigError, CurateError, TrainingError
from ...lm.model.boundary import reason_of
from ...log import LOGGER
from ...version import pip_install
from .destinations import mlflow_is_local

DATABASE = ("sqlalchemy", "alembic")
"""Packages with which MLflow writes a local database; mlflow-skinny is installed without them."""

NO_USAGE_DATA = {"MLFLOW_DISABLE_TELEMETRY": "true", "GRADIO_ANALYTICS_ENABLED": "False"}
"""Variables that keep libraries of trackers from reporting usage data to their makers."""

LONGEST = 100
"""Largest number of characters of a label in the name of a metric; MLflow takes 250 for the whole name."""


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
