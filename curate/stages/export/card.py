"""Write the card of an exported dataset: its README, which states its content, its origin and how to reproduce it.

Everything in the card comes from the store. It contains no paths of this machine: local data is identified by its label
and content hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...formats.locations import is_url, label_and_location, shown
from ...runtime.markdown import as_yaml, code, fenced, table, text
from ...store import Artifact, Store
from ...version import __version__
from ..stage import NOT_MEASURED
from .selection import CHOSEN_TURNS

if TYPE_CHECKING:
    from .rows import ChosenRows

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""Upper limit of the number of rows -> size category of the Hub."""
SELECT_OPTIONS = ("method", "method_args", "budget", "budget_tokens", "per_source_quota")
CURRICULUM_OPTIONS = ("runs", "order", "weights", "rounds", "never_offered")
TRAIN_OPTIONS = ("selector", "selector_args", "candidates", "keep", "model", "seed")
"""Options that the card shows of a stage that selected the samples."""
NOT_OF_THE_DATA = ("to", "overwrite", "push_to_hub", "private", "timeout", "memory", "allow_files")
"""Options of an export that do not describe the data; the card leaves them out."""
FILES = {"jsonl": "train.jsonl", "parquet": "train.parquet"}
"""Format of the files -> name of the file with the rows."""


@dataclass(frozen=True)
class Written:
    """The files that were written, as the card describes them.

    Attributes:
        fingerprint: fingerprint of the export.
        sections: sections of the card on how to load the rows and how to train on them.
    """

    fingerprint: str
    sections: Sequence[str]


def card(
    config: Mapping[str, Any],
    store: Store,
    pool: Artifact,
    made_by: Artifact | None,
    exported: ChosenRows,
    written: Written,
) -> str:
    """Return the text of the card.

    Args:
        config: options of the export.
        store: the store that has the pool and the run.
        pool: the pool that the samples come from.
        made_by: the run that kept the samples, or the subset; None if SQL selected them.
        exported: the exported rows.
        written: what is to say of the files.
    """
    sources, rows = exported.sources, sum(exported.sources.values())
    licences: Mapping[str, str] = pool.summary.get("licences", {})
    parts = [
        f"---\n{_front_matter(config, made_by, sources, licences, written.fingerprint)}---",
        f"# {text(config['name'])}",
        _selection(config, store, pool, made_by, rows),
        *_chosen_turns(exported),
        _sources(sources, licences),
        *written.sections,
        _provenance(config, store, pool, made_by),
    ]
    return "\n\n".join(parts) + "\n"


def _chosen_turns(exported: ChosenRows) -> list[str]:
    """Return the paragraph on the selected answers; none if conversations are selected as a whole."""
    counts = exported.chosen_turns
    if counts is None:
        return []
    lines = [
        f"The selection is by answer: {counts.chosen} of the {counts.total} answers in these conversations were "
        f"chosen. The column {code(CHOSEN_TURNS)} lists them, as indices of the messages from 0. The conversations are "
        "whole, so an answer has the messages before it."
    ]
    for marker in exported.markers:
        lines.append(
            f"In each message of the assistant the key {code(marker)} says whether the answer was chosen. With it the "
            "trainer trains on the chosen answers only."
        )
    if not exported.markers and counts.chosen < counts.total:
        lines.append("A trainer that does not read this column trains on the other answers, too.")
    return [" ".join(lines)]


def _front_matter(
    config: Mapping[str, Any],
    made_by: Artifact | None,
    sources: Mapping[str, int],
    licences: Mapping[str, str],
    fingerprint: str,
) -> str:
    """Return the entries for the Hub and for `load_dataset`.

    The name of the configuration differs from export to export: `load_dataset` caches a folder's rows under this name
    and the last name of the folder only. With one name for all it returns the rows of another or an earlier export.
    """
    rows = sum(sources.values())
    size = next((name for limit, name in SIZES if rows < limit), "n>10M")
    tags = ["curate", "data-selection"]
    tags += [str(made_by.config[key]) for key in ("selector", "method") if made_by is not None and _has(made_by, key)]
    values: dict[str, Any] = {"pretty_name": config["name"], **_licence({licences.get(source) for source in sources})}
    values |= {"size_categories": [size], "tags": tags}
    if file := FILES.get(config["file_format"]):
        values["configs"] = [
            {"config_name": f"rows-{_digits(fingerprint)}", "data_files": [{"split": "train", "path": file}]}
        ]
    return as_yaml(values, unicode=True)


def _digits(fingerprint: str) -> str:
    """Return the first 12 digits of a fingerprint, without its method."""
    return fingerprint.rpartition(":")[2][:12]


def _licence(licences: set[str | None]) -> dict[str, Any]:
    """Return the licence entries of the Hub's front matter; if one source has no licence, the whole is unknown."""
    if None in licences:
        return {"license": "unknown"}
    known = sorted(str(licence) for licence in licences)
    if all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence) for licence in known):
        return {"license": known[0] if len(known) == 1 else known}
    return {"license": "other", "license_name": ", ".join(known)}


def _selection(config: Mapping[str, Any], store: Store, pool: Artifact, made_by: Artifact | None, rows: int) -> str:
    """Return the paragraph on how the samples were selected."""
    names = store.display_names()
    origin = f"the pool {code(names[pool.fingerprint])} ({pool.rows} rows)"
    if made_by is None:
        return f"{rows} samples of {origin}, selected by this query:\n\n{fenced(config['sql'], 'sql')}"
    least = config["min_times_kept"]
    often = f", at least {least} times," if least > 1 else ""
    name = code(names[made_by.fingerprint])
    kept = f"those that the run {name} kept{often} for training" if config["run"] else f"the subset {name}"
    lines = [f"{rows} samples of {origin}: {kept}."]
    options = {
        key: made_by.config[key] for key in (*SELECT_OPTIONS, *CURRICULUM_OPTIONS, *TRAIN_OPTIONS) if _has(made_by, key)
    }
    if options:
        lines.append(
            table(["option of the selection", "value"], [[key, text(_public(value))] for key, value in options.items()])
        )
    if query := made_by.config.get("sql") if made_by.stage == "subset" else None:
        lines.append(f"The subset has the samples that this query returned:\n\n{fenced(query, 'sql')}")
    if left_out := made_by.summary.get(NOT_MEASURED):
        lines.append(f"Trained weights that the selection did not measure: {text(left_out)}.")
    return "\n\n".join(lines)


def _sources(sources: Mapping[str, int], licences: Mapping[str, str]) -> str:
    total = sum(sources.values())
    ordered = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        [text(source), str(count), f"{count / total:.1%}", text(licences.get(source, "not stated"))]
        for source, count in ordered
    ]
    return "## Sources\n\n" + table(["source", "samples", "share", "licence"], rows, right=("samples", "share"))


def _provenance(config: Mapping[str, Any], store: Store, pool: Artifact, made_by: Artifact | None) -> str:
    """Return the fingerprints of the inputs, and the configs of each step as files for `curate STAGE --config FILE`."""
    artifacts = [pool] if made_by is None else [pool, made_by]
    names = store.display_names()
    rows = [[text(names[each.fingerprint]), text(each.stage), code(each.fingerprint)] for each in artifacts]
    rows += [[text(key.split(".", 2)[-1]), "data", code(mark)] for key, mark in pool.inputs.items()]
    steps = [(each.stage, _public(_without_empty(each.config))) for each in artifacts]
    own = {key: value for key, value in config.items() if key not in NOT_OF_THE_DATA}
    steps.append(("export", _without_empty(own)))
    blocks = [
        f"{code(f'curate {stage} --config {stage}.yaml')}\n\n{fenced(as_yaml(values), 'yaml')}"
        for stage, values in steps
    ]
    inputs = table(["name", "made by", "fingerprint"], rows)
    return (
        f"## Provenance\n\nMade with curate {__version__}.\n\n{inputs}\n\n## Reproducing this dataset\n\n"
        "The same data, models and configs give the same fingerprints. Fingerprints do not depend on paths.\n\n"
        + "\n\n".join(blocks)
    )


def _without_empty(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without None, [] and {}."""
    return {key: value for key, value in config.items() if value is not None and value != [] and value != {}}


def _has(artifact: Artifact, key: str) -> bool:
    return artifact.config.get(key) not in (None, {}, [])


def _public(value: Any) -> Any:
    """Return a value without paths of this machine and without secrets.

    A path, or the path of `label=path`, becomes its last name. Hub ids stay, and URLs stay without their secrets.
    """
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(item) for item in value]
    if isinstance(value, str):
        if value.startswith("sql:"):  # --order sql:FILE
            return "sql:" + Path(value.removeprefix("sql:")).name
        label, location = label_and_location(value)
        if is_url(location):
            return f"{label}={shown(location)}" if label else shown(location)
        label, equals, path = value.rpartition("=")
        local = Path(path).is_absolute() or path.startswith(("~", ".")) or ("/" in path and Path(path).exists())
        return f"{label}{equals}{Path(path).name}" if local else value
    return value
