"""Check whether an unfinished artifact can be resumed."""

from __future__ import annotations

from ...config import Config
from ...errors import ArtifactNotFound, StoreError, did_you_mean
from ...log import LOGGER
from ...runtime.redaction import HIDDEN
from ...runtime.terminal import command
from ...stages import STAGES, made_from, recorded_config
from ...stages.consent import Consent, check
from ...store import SCRIPT, Store
from .status import external_values


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
        if store.has(label):
            raise ArtifactNotFound(f"No unfinished artifact is named '{label}' in {store.root}: it is finished.")
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
    if outside := [f"{key} = {value}" for key, value in external_values(config).items() if not store.has(value)]:
        LOGGER.info(f"The draft of '{label}' reads from outside the store: {', '.join(outside)}.")
    config, _, now = made_from(store, draft.stage, config)
    if changed := [field for field in {**now, **draft.inputs} if now.get(field) != draft.inputs.get(field)]:
        raise StoreError(
            f"'{label}' cannot be resumed: {', '.join(sorted(changed))} changed since it was started. Run its command "
            f"again ({command('curate', draft.stage, '--name', draft.name)} ...), and delete {draft.path}."
        )
    return draft.stage, config
