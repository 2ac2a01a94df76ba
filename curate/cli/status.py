"""`curate status` and `curate resume`: what the store holds, what has grown old, and how what was begun goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ..config import EXTERNAL, Config
from ..errors import ArtifactNotFound, ConfigError, StoreError, did_you_mean
from ..runtime.redaction import HIDDEN
from ..runtime.terminal import size, table
from ..stages import STAGES, build_config, made_from
from ..stages.inputs import label_all, locate
from ..store import SCRIPT, Artifact, Store
from . import completion
from .flags import StoreFlag
from .stage import make_and_print

EXAMPLES = """
curate status
curate resume uds
"""


def status(store: StoreFlag = Path("store")) -> None:
    """`curate status`: print what the store holds."""
    print("\n".join(report(Store(store))))


def resume(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As curate status shows it.", autocompletion=completion.unfinished)
    ],
    store: StoreFlag = Path("store"),
) -> None:
    """`curate resume`: finish what was begun."""
    make_and_print(Store(store), *unfinished(Store(store), name))


def report(store: Store) -> list[str]:
    """The store in lines: artifacts, what is stale, what is unfinished, what waits to be merged."""
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
    lines = [f"Store {store.root}", "", *(table(rows) if rows else ["Nothing is finished yet."])]
    current = [a for a in made if store.has(a.name) and store.get(a.name).fingerprint == a.fingerprint]
    stale = [f"  {a.name}: {reason}" for a in current for reason in stale_inputs(store, a)]
    if stale:
        lines += ["", "Stale: something that it was made from has changed since; run its command again", *stale]
    if drafts:
        lines += ["", "Unfinished"]
        lines += [
            f"  {labels[a.fingerprint]} ({a.stage}): {_how_to_resume(store, a, labels[a.fingerprint])}" for a in drafts
        ]
    return [*lines, "", *_catalog(store)]


def _catalog(store: Store) -> list[str]:
    waiting = store.waiting()
    file = store.catalog.path
    lines = [f"Catalogue {file}: {size(file.stat().st_size) if file.exists() else 'not begun'}"]
    if waiting:
        lines.append(f"{waiting} file(s) of facts wait to be merged into it; queries see them already.")
    return lines


def _how_to_resume(store: Store, draft: Artifact, label: str) -> str:
    if store.is_being_made(draft):
        return "being made right now"
    if draft.stage == SCRIPT:
        return "go on with the script that began it, from its own checkpoint"
    where = "" if store.root == Path("store") else f" --store {store.root}"
    return f"go on with: curate resume {label}{where}"


def stale_inputs(store: Store, artifact: Artifact) -> Iterator[str]:
    """A sentence for every input that is no longer what the artifact was made from. Asks no network."""
    if artifact.stage == SCRIPT:
        return
    try:
        config = build_config(artifact.stage, artifact.config)
    except ConfigError as error:
        yield f"made by another version of curate ({error})"
        return
    for field, name in config.refs().items():
        if not store.has(name):
            yield f"{field} '{name}' is gone"
        elif store.get(name).fingerprint != artifact.inputs.get(field):
            yield f"{field} '{name}' has been made anew"
    for key, text in _outside(config).items():
        recorded = artifact.inputs.get(key, "")
        field, bare = key.split(".")[0], text.split("=", 1)[-1]
        if not Path(bare).expanduser().exists() and not store.has(bare):
            if not recorded.startswith(("hub:", "url:")):
                yield f"{field} '{bare}' is gone"
        elif locate(store, text, kind="model" if field == "model" else "dataset")[1] != recorded:
            yield f"{field} '{bare}' has changed"


def _outside(config: Config) -> dict[str, str]:
    """Paths and Hub ids of a config, by the key that its inputs are recorded under."""
    entries: dict[str, str] = {}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        entries |= {field: value} if isinstance(value, str) else label_all(field, value or ())
    return entries


def unfinished(store: Store, label: str) -> tuple[str, Config]:
    """The stage and config of something begun, checked to be what going on would make."""
    store.require()
    labels = store.display_names()
    drafts = {labels[draft.fingerprint]: draft for draft in store.drafts()}
    if label not in drafts:
        raise ArtifactNotFound(f"Nothing unfinished is named '{label}' in {store.root}.{did_you_mean(label, drafts)}")
    draft = drafts[label]
    if draft.stage == SCRIPT:
        raise StoreError(f"'{label}' was begun by a script: start that again, to go on from its own checkpoint.")
    if draft.stage not in STAGES:
        raise StoreError(f"'{label}' was begun by a stage '{draft.stage}' that this version does not know.")
    if HIDDEN in str(draft.config):
        raise StoreError(
            f"'{label}' reads a URL with a password or token, which is not written down: run its command again instead "
            f"(curate {draft.stage} --name {draft.name} ...)."
        )
    config = build_config(draft.stage, draft.config, where=f" in {draft.path / 'draft.json'}")
    _, now = made_from(store, draft.stage, config)
    if changed := [field for field in {**now, **draft.inputs} if now.get(field) != draft.inputs.get(field)]:
        raise StoreError(
            f"'{label}' cannot go on: {', '.join(sorted(changed))} changed since it was begun. Run its command anew "
            f"(curate {draft.stage} --name {draft.name} ...), and delete {draft.path}."
        )
    return draft.stage, config
