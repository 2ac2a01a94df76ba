"""Resolve the inputs of a stage: artifacts by name, and models and data from outside the store, with fingerprints.

Inputs from outside the store are identified by content: a local file or folder by its hash, a Hub repository by its
commit, a URL by the checksum or time stamp that its file system reports. An option that takes a path also takes the
name of an artifact (the model that a run trained, the pool that a generator wrote).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import EXTERNAL, Config, Options
from ..errors import DataError, ModelError, did_you_mean
from ..formats.locations import digest_url, is_url, label_and_location, local, printable, shown
from ..store import POOLS, SCRIPT, Artifact, Store
from ..store.artifacts.files import digest_path
from ..store.artifacts.path_checks import require_no_links
from .consent import OWN_TEMPLATES


@dataclass(frozen=True)
class Inputs:
    """Resolved inputs of a stage.

    Attributes:
        store: the store of the artifacts.
        artifacts: artifact of each `Ref` field of the config; for a field that is a list, by `field.number`.
        locations: file, folder, URL or Hub id to load from, for each external field of the config; for a field that is
            a list, by `field.number.label`.
        fingerprints: fingerprints of all artifacts and locations, by the same keys.
    """

    store: Store
    artifacts: Mapping[str, Artifact]
    locations: Mapping[str, str]
    fingerprints: Mapping[str, str]

    def check(self) -> None:
        """Raise an error if a file that the stage will read is missing or damaged.

        For artifacts the sizes of all files are compared; the pages of Parquet files are checked when they are read.
        Files of models are read completely (about 1.5 GB/s), also those of the base models of adapters.
        """
        for artifact in self.artifacts.values():
            artifact.check()
        models = [self.fingerprints[key] for key in self.locations]
        models += [
            self.artifacts[field].inputs.get("model", "") for field in CHECKPOINT_FIELDS if field in self.artifacts
        ]
        check_models(self.store, models)


def check_models(store: Store, fingerprints: Sequence[str]) -> None:
    """Raise an error if a file of these models of the store, or of those that they were made from, is damaged."""
    by_fingerprint = {artifact.fingerprint: artifact for artifact in store.artifacts()}
    models = [*fingerprints]
    while models:
        if model := by_fingerprint.get(models.pop()):
            model.check(read=True, below="files/")
            models.append(model.inputs.get("model", ""))


CHECKPOINT_FIELDS = ("warmup",)
"""Fields that name a run whose checkpoints are loaded, on the model that the run started from."""


def resolve(store: Store, config: Options) -> Inputs:
    """Find all artifacts and locations that `config` names."""
    artifacts = {
        field: store.get(name, *config.MAKERS.get(field, _makers(field))) for field, name in config.refs().items()
    }
    locations: dict[str, str] = {}
    fingerprints = {field: artifact.fingerprint for field, artifact in artifacts.items()}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        entries = {field: value} if isinstance(value, str) else label_all(field, value or ())
        for key, text in entries.items():
            locations[key], fingerprints[key] = locate(store, text, kind=kind_of(field))
            if kind_of(field) == "model":
                fingerprints |= base_fingerprint(key, locations[key], fingerprints[key])
    return Inputs(store, artifacts, locations, fingerprints)


def is_adapter(location: str) -> bool:
    """Return whether a location is a folder with an adapter, which names its base model."""
    return (Path(location) / "adapter_config.json").is_file()


def base_fingerprint(key: str, location: str, fingerprint: str) -> dict[str, str]:
    """Return the fingerprint of the base model of an adapter, under the key `KEY.base`; {} for other models.

    An artifact's fingerprint covers its base model, so the base of a run is left out.

    Args:
        key: key of the model among the inputs.
        location: the model.
        fingerprint: its fingerprint.

    Raises:
        ModelError: the base model is not on this machine.
    """
    if not fingerprint.startswith("b2:") or not is_adapter(location):
        return {}
    from ..lm.model.adapters import find_base, local_base

    adapters, base = find_base(location)
    found = [digest_path(Path(adapter)) for adapter in adapters[1:]]
    folder = Path(local_base(base, adapters[-1]))
    found.append(digest_path(folder) if Path(base).exists() else f"hub:{folder.name}")
    return {f"{key}.base": "+".join(found)}


def kind_of(field: str) -> str:
    """Return what an external field names: a `model`, a `template`, a `file` or a `dataset`."""
    kinds = {"model": "model", "encoder": "model", "chat_template": "template", "ids": "file", "scores": "file"}
    return kinds.get(field, "dataset")


def with_absolute_paths(config: Config) -> Config:
    """Return the config with every relative path to models and data as an absolute one, as the store records it.

    Then `curate status` and `curate resume` find them from any folder. Names in the store, Hub ids and URLs stay.
    """
    changed: dict[str, str | tuple[str, ...]] = {}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        if isinstance(value, str):
            changed[field] = value if is_own_template(field, value) else _absolute(value)
        elif value:
            changed[field] = tuple(_absolute(entry) for entry in value)
    return config.model_copy(update=changed)


def is_own_template(field: str, value: str) -> bool:
    """Return whether a field names a chat template that comes with curate."""
    return field == "chat_template" and value in OWN_TEMPLATES


def _absolute(entry: str) -> str:
    """Return `[label=]path` with an absolute path, if there is something at that path."""
    label, text = label_and_location(entry)
    try:
        path = Path(text).expanduser()
        if is_url(text) or not path.exists():
            return entry
    except (OSError, ValueError, RuntimeError):
        return entry
    return f"{label}={path.absolute()}" if label is not None else str(path.absolute())


def label_all(field: str, entries: Sequence[str]) -> dict[str, str]:
    """Return entries `label=path` or `path` by `field.number.label`. Labels enter the fingerprint, paths do not."""
    return {f"{field}.{number}.{label_of(entry)}": entry for number, entry in enumerate(entries)}


def label_of(entry: str) -> str:
    """Return the label of `label=path`. Without a label, return the stem of a path or URL, or the Hub id."""
    label, text = label_and_location(entry)
    if label is not None:
        return label
    if is_url(text) and not local(text):
        return Path(shown(text)).stem
    try:
        path = local(text) or Path(text)
        return printable(path.stem) if path.exists() else text
    except (OSError, ValueError):  # not a path; `locate` raises the error
        return text


RUNS = ("train", SCRIPT)
"""Stages that make runs."""

MADE_BY: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(["pool", "eval_pool", "target", "against", "replay"], POOLS),
    **dict.fromkeys(["features", "target_features", "before"], ("embed",)),
    **dict.fromkeys(["run", "runs"], RUNS),
    "warmup": ("train",),
    **dict.fromkeys(["prescreen_from", "lengths_of"], ("train",)),
    "clusters": ("cluster",),
    **dict.fromkeys(
        ["subset", "base", "union", "minus"], ("select", "curriculum", "subset", "dedup", "decontaminate", "export")
    ),
}
"""Field -> the stages that make the artifact it names."""


def _makers(field: str) -> Sequence[str]:
    """Return the stages that may have made the artifact of a field (or `field.number`); empty if any stage may."""
    return MADE_BY.get(field.partition(".")[0], ())


def locate(store: Store, text: str, *, kind: str) -> tuple[str, str]:
    """Return the location to load from, and its fingerprint.

    Args:
        store: the store to look for an artifact of this name.
        text: `[label=]path`, a URL, the name of an artifact, or a Hub id.
        kind: `model`, `dataset`, `file` (on this machine) or `template`.

    Raises:
        ModelError: there is no such model or chat template.
        DataError: there is no such file, folder or dataset.
    """
    if kind == "template":
        from ..lm.templates.named import template_text

        return text, "b2:" + hashlib.blake2b(template_text(text).encode(), digest_size=16).hexdigest()
    _, text = label_and_location(text)
    try:
        path = local(text) or Path(text).expanduser()
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, or ~user of an unknown user
        raise (ModelError if kind == "model" else DataError)(f"{text[:80]!r} is not a path: {error}.") from None
    if exists:
        return str(path), digest_path(path)
    if is_url(text):
        return _locate_url(text, kind)
    if store.has(text):
        artifact = store.get(text)
        require_no_links(artifact.files)
        return str(artifact.files), artifact.fingerprint
    if kind == "file":
        raise DataError(f"There is no file {printable(path)}: check the path.")
    return text, _hub_revision(text, kind, store)


def _locate_url(url: str, kind: str) -> tuple[str, str]:
    if local(url) is not None:
        raise DataError(f"There is no file or folder {local(url)}. Check the path.")
    if kind == "model":
        raise ModelError(f"Models are loaded from a folder or the Hub, not from {shown(url)}: copy it to this machine.")
    return url, digest_url(url)


def _hub_revision(repo: str, kind: str, store: Store) -> str:
    """Return the commit of a Hub repository, from the cache or from the Hub.

    Raises:
        ModelError, DataError: the Hub does not have it, or cannot be reached. Nothing of that name is here either.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    error = ModelError if kind == "model" else DataError
    hint = did_you_mean(repo, (artifact.name for artifact in store.artifacts())).removesuffix(".")
    near = f" ({hint.strip()})" if "Did you mean" in hint else ""
    advice = f"There is no {kind} '{repo}': no such file or folder, and no artifact of that name in {store.root}{near}"
    if repo.count("/") > 1 or repo.startswith((".", "/", "~")):
        raise error(f"{advice}. Check the path.")
    try:
        cached = try_to_load_from_cache(repo, "config.json") if kind == "model" else None
        if isinstance(cached, str):
            return f"hub:{Path(cached).parent.name}"
        return f"hub:{HfApi().repo_info(repo, repo_type=kind).sha}"
    except Exception as reason:  # the Hub's client raises errors of its own, of its HTTP library and of the system
        lines = str(reason).strip().splitlines()
        answer = lines[0].rstrip(".") if lines else type(reason).__name__
        raise error(f"{advice}; the Hugging Face Hub answered: {answer}. Check the path or id.") from None
