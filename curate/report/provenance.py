"""How each run was made: its config, what of it is not the default, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..formats.locations import shown
from ..stages import stage_of
from ..store import SCRIPT
from .runs import ReportContext

SAID_ELSEWHERE = ("selector", "model", "pool", "seed")


def provenance(scope: ReportContext) -> list[dict[str, Any]]:
    """For each run its name, config and inputs. Paths and ids are those that the config holds; URLs without secrets."""
    made = {artifact.fingerprint: artifact for artifact in scope.store.artifacts()}
    found = []
    for run in scope.runs:
        artifact = run.artifact
        config = {key: _public(value) for key, value in artifact.config.items()}
        by_script = artifact.stage == SCRIPT  # which has no defaults
        set_by_hand = [] if by_script else changed(artifact.config, stage_of(artifact.stage).config)
        inputs = []
        for role, mark in artifact.inputs.items():
            other = made.get(mark)
            inputs.append(
                {
                    "role": role,
                    "name": scope.labels[mark] if other else _public(artifact.config.get(role)),
                    "stage": other.stage if other else None,
                    "fingerprint": mark,
                    "rows": other.rows if other else None,
                }
            )
        found.append(
            {
                "name": run.name,
                **{key: config.get(key) for key in SAID_ELSEWHERE},
                "config": config,
                "changed": set_by_hand,
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
    """The keys of a config whose value is not the default. Keys that have none (name, pool, model) do not count."""
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
    """The same, URLs without user, password and query."""
    if isinstance(value, Mapping):
        return {key: _public(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(part) for part in value]
    return shown(value) if isinstance(value, str) else value
