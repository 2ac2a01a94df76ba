"""The commands `curate status`, which lists the artifacts of a store, and `curate resume`, which finishes one of them.

An artifact is stale if one of its inputs is gone or has changed since it was made. The fingerprints of the inputs show
this, without any network access.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ..config import EXTERNAL, Config
from ..errors import ArtifactNotFound, ConfigError, CurateError, ModelError, StoreError, did_you_mean
from ..log import LOGGER
from ..runtime.redaction import HIDDEN
from ..runtime.terminal import cell, command, resume_command, say, size, table
from ..stages import STAGES, made_from, recorded_config
from ..stages.consent import Consent, check
from ..stages.inputs import base_fingerprint, is_own_template, kind_of, label_all, locate
from ..store import SCRIPT, Artifact, Store
from . import completion
from .flags import StoreFlag, with_consent
from .stage import make_and_print

EXAMPLES = """
curate status
curate status uds --follow
curate resume uds
curate resume uds --trust-remote-code
"""

NEW_SAMPLES = """
WITH known AS (
    SELECT sample_id FROM features WHERE features = $features
    UNION SELECT conversation_id FROM turn_samples WHERE artifact = $features
)
SELECT count(DISTINCT sample_id) AS samples,
       count(DISTINCT sample_id) FILTER (sample_id NOT IN (SELECT sample_id FROM known)) AS new
FROM samples WHERE pool = $pool
"""


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Name of a run: print its newest step. Without it all artifacts are listed.",
            autocompletion=completion.unfinished,
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Print a line for each step until the run ends; without RUN, of the only run that is being made.",
        ),
    ] = False,
    store: StoreFlag = Path("store"),
) -> int:
    """Run `curate status`: list the artifacts, and which of them are stale or unfinished; or show one run."""
    if run is None and not follow:
        say(*report(Store(store)))
        return 0
    return _show_run(Store(store), run, follow=follow)


def _show_run(store: Store, name: str | None, *, follow: bool) -> int:
    """Print a run, once or until it ends; return 0, or 1 if it stopped before its end while it was followed."""
    from ..report.found_runs import find_run
    from ..watch import lines
    from ..watch.follower import RunFollower

    follower = RunFollower(store, find_run(store, name), pictures=False)
    try:
        if not follow:
            say(*lines.newest(follower))
            return 0
        end = lines.follow(follower)
    finally:
        follower.close()
    LOGGER.log(logging.WARNING if end.code else logging.INFO, end.sentence)
    return end.code


@with_consent
def resume(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of an unfinished artifact, as curate status shows it.",
            autocompletion=completion.unfinished,
        ),
    ],
    store: StoreFlag = Path("store"),
    *,
    consent: Consent,
) -> None:
    """Run `curate resume`: finish an unfinished artifact. The store may be of another person, so consent is needed."""
    make_and_print(Store(store), *unfinished(Store(store), name, consent))


def report(store: Store) -> list[str]:
    """Return the lines of `curate status`: artifacts, stale ones, unfinished ones, and the state of the catalogue.

    Raises:
        StoreError: there is no store.
    """
    from ..store.artifacts.files import size_of

    store.require()
    labels, made, drafts = store.display_names(), store.artifacts(), store.drafts()
    rows = [
        {
            "name": labels[a.fingerprint],
            "stage": a.stage,
            "rows": a.rows,
            "size": size(size_of(a.path)),
            "made": a.made_at and datetime.fromisoformat(a.made_at),
        }
        for a in made
    ]
    lines = [f"Store {store.root}", "", *(table(rows) if rows else ["There is no finished artifact yet."])]
    current = [a for a in made if store.has(a.name) and store.get(a.name).fingerprint == a.fingerprint]
    stale = [f"  {cell(a.name)}: {cell(reason)}" for a in current for reason in _stale(store, a)]
    if stale:
        lines += ["", "Stale: an input has changed since. Run the command of the artifact again.", *stale]
    if drafts:
        lines += ["", "Unfinished"]
        lines += [
            f"  {cell(labels[a.fingerprint])} ({cell(a.stage)}): {_how_to_resume(store, a, labels[a.fingerprint])}"
            for a in drafts
        ]
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
    from ..store.artifacts.path_checks import kind_of

    waiting = store.waiting()
    file = store.catalog.path
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
        config = recorded_config(artifact.stage, artifact.config)
    except ConfigError as error:
        yield f"made by another version of curate ({error})"
        return
    for field, name in config.refs().items():
        if not store.has(name):
            yield f"{field} '{name}' is gone"
        elif store.get(name).fingerprint != artifact.inputs.get(field):
            yield f"{field} '{name}' has been made again"
    for key, text in _external_values(config).items():
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


def _external_values(config: Config) -> dict[str, str]:
    """Return the paths and Hub ids in a config, by the key under which the artifact records the input."""
    entries: dict[str, str] = {}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        if isinstance(value, str) and not is_own_template(field, value):
            entries[field] = value
        elif not isinstance(value, str):
            entries |= label_all(field, value or ())
    return entries


def unfinished(store: Store, label: str, consent: Consent | None = None) -> tuple[str, Config]:
    """Return the stage and the config of an unfinished artifact, after a check that it can be resumed.

    Args:
        store: the store.
        label: name of the unfinished artifact.
        consent: what the command line allows; None: nothing.

    Raises:
        ConfigError: the draft asks for something that the command line does not allow.
        ArtifactNotFound: no unfinished artifact has this name.
        StoreError: a script made the artifact, this version does not know its stage, a secret of its URL is not
            recorded, or an input has changed.
    """
    store.require()
    labels = store.display_names()
    drafts = {labels[draft.fingerprint]: draft for draft in store.drafts()}
    if label not in drafts:
        raise ArtifactNotFound(
            f"No unfinished artifact is named '{label}' in {store.root}.{did_you_mean(label, drafts)}"
        )
    draft = drafts[label]
    if draft.stage == SCRIPT:
        raise StoreError(f"'{label}' was started by a script. Run the script again to resume from its own checkpoint.")
    if draft.stage not in STAGES:
        raise StoreError(
            f"'{label}' was started by the stage '{draft.stage}', which this version of curate does not know."
        )
    if HIDDEN in str(draft.config):
        raise StoreError(
            f"'{label}' reads a URL with a password or token, and the store does not record secrets. Run its command "
            f"again instead ({command('curate', draft.stage, '--name', draft.name)} ...)."
        )
    check(draft.config, consent or Consent(), f"The draft of '{label}'", draft=True, flat=True)
    config = recorded_config(draft.stage, draft.config, where=f" in {draft.path / 'draft.json'}")
    withheld = check(config.model_dump(), consent or Consent(), f"The draft of '{label}'", draft=True, flat=True)
    config = config.model_copy(update=withheld)
    if outside := [f"{key} = {value}" for key, value in _external_values(config).items() if not store.has(value)]:
        LOGGER.info(f"The draft of '{label}' reads from outside the store: {', '.join(outside)}.")
    config, _, now = made_from(store, draft.stage, config)
    if changed := [field for field in {**now, **draft.inputs} if now.get(field) != draft.inputs.get(field)]:
        raise StoreError(
            f"'{label}' cannot be resumed: {', '.join(sorted(changed))} changed since it was started. Run its command "
            f"again ({command('curate', draft.stage, '--name', draft.name)} ...), and delete {draft.path}."
        )
    return draft.stage, config
