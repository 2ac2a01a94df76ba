"""The provenance of each run: its config, the options that differ from the defaults, and its inputs.

The page may be published. So URLs lose their user, password and query here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..formats.locations import shown
from ..stages import stage_of
from ..store import SCRIPT
from .runs import ReportContext

TOP_LEVEL = ("selector", "model", "pool", "seed")
"""Keys of a config that the object of a run also has at its top level."""


def provenance(context: ReportContext) -> list[dict[str, Any]]:
    """Return for each run its name, config and inputs. Paths and ids are those of the config; URLs have no secrets."""
    made = {artifact.fingerprint: artifact for artifact in context.store.artifacts()}
    found = []
    for run in context.runs:
        artifact = run.artifact
        config = {key: _public(value) for key, value in artifact.config.items()}
        by_script = artifact.stage == SCRIPT  # a script has no defaults
        set_by_user = [] if by_script else changed(artifact.config, stage_of(artifact.stage).config)
        inputs = []
        for role, fingerprint in artifact.inputs.items():
            other = made.get(fingerprint)
            inputs.append(
                {
                    "role": role,
                    "name": context.labels[fingerprint] if other else _public(artifact.config.get(role)),
                    "stage": other.stage if other else None,
                    "fingerprint": fingerprint,
                    "rows": other.rows if other else None,
                }
            )
        found.append(
            {
                "name": run.name,
                **{key: config.get(key) for key in TOP_LEVEL},
                "config": config,
                "changed": set_by_user,
                "provenance": {
                    "fingerprint": artifact.fingerprint,
                    "made_at": artifact.made_at,
                    "curate": None,
                    "inputs": inputs,
                    "packages": None,
                },
            }
        )
    return found


def changed(config: Mapping[str, Any], kind: type[Config]) -> list[str]:
    """Return the keys of a config whose value is not the default. Keys without one (name, pool, model) never count."""
    found = []
    for key, value in config.items():
        field = kind.model_fields.get(key)
        if field is None or field.is_required():
            continue
        default = field.get_default(call_default_factory=True)
        if json.dumps(value, sort_keys=True) != json.dumps(default, sort_keys=True, default=str):
            found.append(key)
    return found


def _public(value: Any) -> Any:
    """Return a value with user, password and query removed from its URLs."""
    if isinstance(value, Mapping):
        return {key: _public(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(part) for part in value]
    return shown(value) if isinstance(value, str) else value
