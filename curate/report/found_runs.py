"""Find a run, finished or not, and whether a process is making it.

A process that makes an artifact holds a lock on a file in its folder, and writes its name and its machine there. On
some network file systems the locks of other machines cannot be seen. The state of such a run is `unseen`, and only new
records show that it still trains.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from ..errors import ArtifactNotFound, DataError, StoreError, did_you_mean
from ..stages.inputs import RUNS
from ..store import Artifact, Store
from ..store.artifacts.files import HOST
from ..store.artifacts.safe_files import read_text

State = Literal["going", "ended", "stopped", "unseen"]
"""`going`: a process makes it; `ended`: it is finished; `stopped`: no process makes it; `unseen`: another machine made
it last, whose lock this one may not see."""

HOLDER = re.compile(r"\d+ on ([\w-]{1,255})")


def find_run(store: Store, name: str | None) -> Artifact:
    """Return a run by name. One that is being made comes before a finished one of the same name.

    Args:
        store: the store.
        name: name of the run; None: the only run that is being made now.

    Raises:
        ArtifactNotFound: there is no such run, or no run is being made.
        DataError: several runs are being made and none is named.
    """
    store.require()
    labels = store.display_names()
    drafts = {labels[draft.fingerprint]: draft for draft in store.drafts() if draft.stage in RUNS}
    if name is None:
        return _the_only_one(store, {label: each for label, each in drafts.items() if _is_made_now(store, each)})
    going = [each for each in drafts.values() if each.name == name and _is_made_now(store, each)]
    if going:
        return going[0]
    if name in drafts:
        return drafts[name]
    if store.has(name):
        return store.get(name, *RUNS)
    made = {labels[each.fingerprint]: each for each in store.artifacts() if each.stage in RUNS}
    if name in made:
        return made[name]
    known = [*drafts, *made]
    hint = did_you_mean(name, known) if known else " There are no runs in it yet: curate train makes one."
    raise ArtifactNotFound(f"There is no run named '{name}' in the store {store.root}.{hint}")


def _the_only_one(store: Store, going: dict[str, Artifact]) -> Artifact:
    if not going:
        made = any(each.stage in RUNS for each in store.artifacts_and_drafts())
        advice = (
            "Name one: curate status lists them." if made else "There are no runs in it yet: curate train makes one."
        )
        raise ArtifactNotFound(f"No run is being made in the store {store.root}. {advice}")
    if len(going) > 1:
        raise DataError(f"{len(going)} runs are being made in {store.root}. Name one of them: {', '.join(going)}.")
    return next(iter(going.values()))


def _is_made_now(store: Store, draft: Artifact) -> bool:
    return state_of(store, draft) in ("going", "unseen")


def state_of(store: Store, run: Artifact) -> State:
    """Return the state of a run now. It takes two looks at its folder and no network."""
    if os.path.lexists(run.path / "artifact.json"):
        return "ended"
    try:
        if store.is_being_made(run):
            return "going"
    except OSError:  # a file system without locks
        return "unseen"
    if os.path.lexists(run.path / "artifact.json"):  # finished between the two looks
        return "ended"
    return "stopped" if _host_of(run) in (None, HOST) else "unseen"


def _host_of(run: Artifact) -> str | None:
    """Return the machine of the process that last made a run, as its lock names it."""
    try:
        found = HOLDER.fullmatch(read_text(run.path / "draft.lock")[:300].strip())
    except (OSError, StoreError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def read_again(store: Store, run: Artifact) -> Artifact:
    """Return the run as its folder describes it now: finished, if it has ended since."""
    if os.path.lexists(run.path / "artifact.json"):
        return store.load(run.path)
    return run
