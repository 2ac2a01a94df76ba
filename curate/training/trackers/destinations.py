"""Decide from the environment whether a tracker of runs sends what it gets to another machine."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

DATABRICKS = ("databricks", "databricks-uc", "uc")
"""Values of MLFLOW_TRACKING_URI that name a service without an address."""


def mlflow_is_local() -> bool:
    """Return whether MLflow writes to this machine's disk: MLFLOW_TRACKING_URI is not set, or names a file."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return "DATABRICKS_RUNTIME_VERSION" not in os.environ
    scheme = urlsplit(uri).scheme.lower()
    return scheme in ("file", "sqlite") or (not scheme and uri.lower() not in DATABRICKS)


def sends_away(service: object) -> bool:
    """Return whether a tracker sends a run's log to another machine; an unknown tracker counts as one that does."""
    if service in (None, "none", "tensorboard"):
        return False
    if service == "mlflow":
        return not mlflow_is_local()
    if service == "trackio":
        return any(os.environ.get(name) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))
    return True
