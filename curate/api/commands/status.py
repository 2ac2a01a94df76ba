"""List the artifacts of a store, and which of them are stale or unfinished.

An artifact is stale if one of its inputs is gone or has changed since it was made. The fingerprints of the inputs show
this, without any network access.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ...config import EXTERNAL, Config
from ...errors import ConfigError, CurateError, ModelError
from ...log import LOGGER
from ...runtime.terminal import cell, resume_command, size, table
from ...stages import described_config
from ...stages.inputs import base_fingerprint, is_own_template, kind_of, label_all, locate
from ...store import SCRIPT, Artifact, Store

NEW_SAMPLES = """
WITH known AS (
    SELECT sample_id FROM features WHERE features = $features
    UNION SELECT conversation_id FROM turn_samples WHERE artifact = $features
)
SELECT count(DISTINCT sample_id) AS samples,
       count(DISTINCT sample_id) FILTER (sample_id NOT IN (SELECT sample_id FROM known)) AS new
FROM samples WHERE pool = $pool
"""


@dataclass(frozen=True)
class Listed:
    """An artifact in the list of a store.

    Attributes:
        artifact: the artifact, finished or not.
        label: the name in the tables of the store.
        size: bytes of its files.
        stale: reasons why a finished artifact is stale; none for one whose name means another artifact now.
        resume: how an unfinished artifact is finished, in words; empty for a finished one.
    """

    artifact: Artifact
    label: str
    size: int
    stale: Sequence[str] = ()
    resume: str = ""


def listed(store: Store) -> list[Listed]:
    """Return the finished artifacts of a store, oldest first, then the unfinished ones.

    Raises:
        StoreError: there is no store.
    """
    from ...store.artifacts.files import size_of

    store.require()
    labels, made, drafts = store.display_names(), store.artifacts(), store.drafts()
    found = []
    for artifact in made:
        is_current = store.has(artifact.name) and store.get(artifact.name).fingerprint == artifact.fingerprint
        stale = _stale(store, artifact) if is_current else []
        found.append(Listed(artifact, labels[artifact.fingerprint], size_of(artifact.path), stale))
    for draft in drafts:
        label = labels[draft.fingerprint]
        found.append(Listed(draft, label, size_of(draft.path), resume=_how_to_resume(store, draft, label)))
    return found


def report(store: Store) -> list[str]:
    """Return the lines of `curate status`: artifacts, stale ones, unfinished ones, and the state of the catalogue.

    Raises:
        StoreError: there is no store.
    """
    found = listed(store)
    made = [each for each in found if each.artifact.made_at is not None]
    rows = [
        {
            "name": each.label,
            "stage": each.artifact.stage,
            "rows": each.artifact.rows,
            "size": size(each.size),
            "made": datetime.fromisoformat(each.artifact.made_at or ""),
        }
        for each in made
    ]
    lines = [f"Store {store.root}", "", *(table(rows) if rows else ["There is no finished artifact yet."])]
    stale = [f"  {cell(each.artifact.name)}: {cell(reason)}" for each in made for reason in each.stale]
    if stale:
        lines += ["", "Stale: an input has changed since. Run the command of the artifact again.", *stale]
    drafts = [f"  {cell(each.label)} ({cell(each.artifact.stage)}): {each.resume}" for each in found if each.resume]
    if drafts:
        lines += ["", "Unfinished", *drafts]
    return [*lines, "", *_catalog(store)]


def _stale(store: Store, artifact: Artifact) -> list[str]:
    """Return why an artifact is stale; for features of a pool that has changed alone, also how many samples are new."""
    reasons = list(stale_inputs(store, artifact))
    pool = str(artifact.config.get("pool", ""))
    if artifact.stage != "embed" or len(reasons) != 1 or not store.has(pool):
        return reasons
    now = store.get(pool)
    return [
        f"{reasons[0]}{_new_samples(store, artifact, now)}"
        if now.fingerprint != artifact.inputs["pool"]
        else reasons[0]
    ]


def _new_samples(store: Store, features: Artifact, pool: Artifact) -> str:
    """Return how many samples of a pool its earlier features lack; nothing if the records cannot be read now."""
    labels = store.display_names()
    try:
        (row,) = store.query(
            NEW_SAMPLES, {"pool": labels[pool.fingerprint], "features": labels[features.fingerprint]}
        ).to_pylist()
    except CurateError as error:
        LOGGER.info(f"The new samples of '{pool.name}' are not counted: {error}")
        return ""
    return f" (of its {row['samples']} samples {row['new']} are new: curate embed would measure them alone)"


def _catalog(store: Store) -> list[str]:
    from ...store.artifacts.path_checks import kind_of

    waiting = store.waiting()
    file = store.catalogue_file
    kind = kind_of(file)
    state = "not created yet" if kind is None else size(file.stat().st_size) if kind == "a file" else f"is {kind}"
    lines = [f"Catalogue {file}: {state}"]
    if waiting:
        lines.append(f"{waiting} file(s) of records are not merged into the catalogue yet. Queries already see them.")
    return lines


def _how_to_resume(store: Store, draft: Artifact, label: str) -> str:
    if store.is_being_made(draft):
        return "a process is working on it"
    if draft.stage == SCRIPT:
        return "resume it with the script that started it, from the script's own checkpoint"
    where = [] if store.root == Path("store") else ["--store", str(store.root)]
    return f"resume it with: {resume_command(label, *where)}"


def stale_inputs(store: Store, artifact: Artifact) -> Iterator[str]:
    """Yield a sentence for each input that is gone or has changed since the artifact was made. No network is used."""
    if artifact.stage == SCRIPT:
        return
    try:
        config = described_config(artifact.stage, artifact.config)
    except ConfigError as error:
        yield f"made by another version of curate ({error})"
        return
    for field, name in config.refs().items():
        if not store.has(name):
            yield f"{field} '{name}' is gone"
        elif store.get(name).fingerprint != artifact.inputs.get(field):
            yield f"{field} '{name}' has been made again"
    for key, text in external_values(config).items():
        recorded = artifact.inputs.get(key, "")
        field, path = key.split(".")[0], text.split("=", 1)[-1]
        if not Path(path).expanduser().exists() and not store.has(path):
            if recorded.startswith(("hub:", "url:")):
                continue
            if Path(path).is_absolute():
                yield f"{field} '{_relative(path)}' is gone"
            else:  # an older curate recorded the path as it was given
                yield f"{field} '{path}' is not here, and its recorded path is relative: run status in its folder"
            continue
        location, now = locate(store, text, kind=kind_of(field))
        if now != recorded:
            yield f"{field} '{_relative(path)}' has changed"
        elif f"{key}.base" in artifact.inputs:
            yield from _stale_base(key, location, artifact)


def _stale_base(key: str, location: str, artifact: Artifact) -> Iterator[str]:
    """Yield a sentence if the base model of an adapter is gone or has changed."""
    try:
        base = base_fingerprint(key, location, artifact.inputs[key])
    except ModelError:
        yield f"the base model of {key} '{_relative(location)}' is gone"
        return
    if base.items() - artifact.inputs.items():
        yield f"the base model of {key} '{_relative(location)}' has changed"


def _relative(path: str) -> str:
    """Return a path relative to the working folder if it lies below it, else the path as it is."""
    below = Path(path).is_relative_to(Path.cwd())
    return str(Path(path).relative_to(Path.cwd())) if below else path


def external_values(config: Config) -> dict[str, str]:
    """Return the paths and Hub ids in a config, by the key under which the artifact records the input."""
    entries: dict[str, str] = {}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        if isinstance(value, str) and not is_own_template(field, value):
            entries[field] = value
        elif not isinstance(value, str):
            entries |= label_all(field, value or ())
    return entries
