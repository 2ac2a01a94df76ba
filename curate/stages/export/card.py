"""The README of an exported data set: what it is, how it came about and how to make it again.

Everything in it comes from the store. Paths of this machine do not: local data is named by label and content hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...formats.locations import is_url, label_and_location, shown
from ...store import Artifact, Store
from ...version import __version__
from .trainers import note

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
SELECTED = ("method", "method_args", "budget", "budget_tokens", "per_source_quota")
ORDERED = ("runs", "order", "weights", "rounds", "never_offered")
LEFT_OUT = ("to", "overwrite", "push_to_hub", "private", "timeout", "memory", "allow_files")
"""Options of an export that say nothing of the data."""
FILES = {"jsonl": "train.jsonl", "parquet": "train.parquet"}


def card(
    config: Mapping[str, Any], store: Store, pool: Artifact, made_by: Artifact | None, sources: Mapping[str, int]
) -> str:
    """The text of the card.

    Args:
        config: the export's.
        store: where pool and run are.
        pool: where the samples come from.
        made_by: the run that kept them or the subset; None where SQL chose them.
        sources: how many of the exported samples come from each.
    """
    rows = sum(sources.values())
    licences: Mapping[str, str] = pool.summary.get("licences", {})
    parts = [
        f"---\n{_front_matter(config, made_by, sources, licences, rows)}---",
        f"# {config['name']}",
        _how(config, store, pool, made_by, rows),
        _sources(sources, licences),
        _load(config),
        *_order(config),
        _provenance(config, store, pool, made_by),
    ]
    return "\n\n".join(parts) + "\n"


def _order(config: Mapping[str, Any]) -> list[str]:
    trainer = config["trainer"]
    return [note(trainer, config["name"], FILES.get(config["file_format"], ""))] if trainer else []


def _front_matter(
    config: Mapping[str, Any],
    made_by: Artifact | None,
    sources: Mapping[str, int],
    licences: Mapping[str, str],
    rows: int,
) -> str:
    size = next((name for limit, name in SIZES if rows < limit), "n>10M")
    tags = ["curate", "data-selection"]
    tags += [str(made_by.config[key]) for key in ("selector", "method") if made_by is not None and _has(made_by, key)]
    values: dict[str, Any] = {"pretty_name": config["name"], **_licence({licences.get(source) for source in sources})}
    values |= {"size_categories": [size], "tags": tags}
    if file := FILES.get(config["file_format"]):
        values["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _licence(named: set[str | None]) -> dict[str, Any]:
    """Licences as the Hub's front matter has them; a source without one makes the whole unknown."""
    if None in named:
        return {"license": "unknown"}
    known = sorted(str(licence) for licence in named)
    if all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence) for licence in known):
        return {"license": known[0] if len(known) == 1 else known}
    return {"license": "other", "license_name": ", ".join(known)}


def _how(config: Mapping[str, Any], store: Store, pool: Artifact, made_by: Artifact | None, rows: int) -> str:
    labels = store.display_names()
    where = f"the pool `{labels[pool.fingerprint]}` ({pool.rows} rows)"
    if made_by is None:
        return f"{rows} samples of {where}, chosen by this query:\n\n```sql\n{config['sql']}\n```"
    least = config["min_times_kept"]
    often = f", at least {least} times," if least > 1 else ""
    label = labels[made_by.fingerprint]
    kept = f"those that the run `{label}` kept{often} for training" if config["run"] else f"the subset `{label}`"
    lines = [f"{rows} samples of {where}: {kept}."]
    shown = {
        key: made_by.config[key]
        for key in (*SELECTED, *ORDERED, *("selector", "selector_args", "candidates", "keep", "model", "seed"))
        if _has(made_by, key)
    }
    if shown:
        rows_of = "\n".join(f"| {key} | {_cell(_public(value))} |" for key, value in shown.items())
        lines.append(f"| how they were selected | |\n|---|---|\n{rows_of}")
    return "\n\n".join(lines)


def _sources(sources: Mapping[str, int], licences: Mapping[str, str]) -> str:
    total = sum(sources.values())
    ordered = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        f"| {_cell(source)} | {count} | {count / total:.1%} | {_cell(licences.get(source, 'not stated'))} |"
        for source, count in ordered
    ]
    return "## Sources\n\n| source | samples | share | licence |\n|---|---:|---:|---|\n" + "\n".join(rows)


def _load(config: Mapping[str, Any]) -> str:
    if config["file_format"] == "hf":
        call = "datasets.load_from_disk(FOLDER)"
    else:
        call = 'datasets.load_dataset(FOLDER, split="train")'
    return (
        f"## Loading\n\n```python\nimport datasets\n\ndata = {call}  # rows are in the format {config['format']}\n```"
    )


def _provenance(config: Mapping[str, Any], store: Store, pool: Artifact, made_by: Artifact | None) -> str:
    """Fingerprints, and the configs that lead here, as files for `curate STAGE --config FILE`."""
    made = [pool] if made_by is None else [pool, made_by]
    labels = store.display_names()
    rows = [f"| {labels[artifact.fingerprint]} | {artifact.stage} | `{artifact.fingerprint}` |" for artifact in made]
    rows += [f"| {_cell(key.split('.', 2)[-1])} | data | `{mark}` |" for key, mark in pool.inputs.items()]
    steps = [(artifact.stage, _public(_set(artifact.config))) for artifact in made]
    own = {key: value for key, value in config.items() if key not in LEFT_OUT}
    steps.append(("export", _set(own)))
    blocks = [
        f"`curate {stage} --config {stage}.yaml`\n\n```yaml\n{yaml.safe_dump(values, sort_keys=False)}```"
        for stage, values in steps
    ]
    table = "| what | made by | fingerprint |\n|---|---|---|\n" + "\n".join(rows)
    return (
        f"## Provenance\n\nMade with curate {__version__}.\n\n{table}\n\n## Making it again\n\n"
        "The same data, models and configs give the same fingerprints; paths are left out of these.\n\n"
        + "\n\n".join(blocks)
    )


def _set(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None and value != [] and value != {}}


def _has(artifact: Artifact, key: str) -> bool:
    return artifact.config.get(key) not in (None, {}, [])


def _public(value: Any) -> Any:
    """Without paths of this machine and secrets: of `label=path` or a path, the last name; a Hub id or URL stays."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(item) for item in value]
    if isinstance(value, str):
        if value.startswith("sql:"):  # --order sql:FILE
            return "sql:" + Path(value.removeprefix("sql:")).name
        label, place = label_and_location(value)
        if is_url(place):
            return f"{label}={shown(place)}" if label else shown(place)
        label, equals, path = value.rpartition("=")
        local = Path(path).is_absolute() or path.startswith(("~", ".")) or ("/" in path and Path(path).exists())
        return f"{label}{equals}{Path(path).name}" if local else value
    return value


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
