"""What a stage reads: artifacts by name, and models and data from outside the store, each with its fingerprint.

Outside things count by content: a local file or folder by its hash, a Hub repository by its commit, a URL by what its
file system says of it. The name of an artifact may stand wherever a path may (the model that a run made, the pool that
a generator made).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import EXTERNAL, Config, Options
from ..errors import DataError, ModelError
from ..formats.locations import digest_url, is_url, label_and_location, local, printable, shown
from ..store import SCRIPT, Artifact, Store
from ..store.artifacts.files import digest_path


@dataclass(frozen=True)
class Inputs:
    """What a stage was given.

    Attributes:
        store: where it all is.
        artifacts: by `Ref` field of the config.
        places: by `External` field (lists: by `field.number.label`): a file, a folder, a URL or a Hub id to load from.
        fingerprints: of all of them.
    """

    store: Store
    artifacts: Mapping[str, Artifact]
    locations: Mapping[str, str]
    fingerprints: Mapping[str, str]

    def check(self) -> None:
        """Raise unless what the stage is about to read is there as it was written.

        Of artifacts the sizes of all files are looked at; pages of Parquet files are when they are read. Files of
        models are read through, ~1.5 GB/s, and so are those of the models that these are adapters of.
        """
        for artifact in self.artifacts.values():
            artifact.check()
        made = {artifact.fingerprint: artifact for artifact in self.store.artifacts()}
        models = [self.fingerprints[key] for key in self.locations]
        models += [
            self.artifacts[field].inputs.get("model", "") for field in CHECKPOINT_FIELDS if field in self.artifacts
        ]
        while models:
            if model := made.get(models.pop()):
                model.check(read=True, below="files/")
                models.append(model.inputs.get("model", ""))


CHECKPOINT_FIELDS = ("warmup",)
"""Fields that name a run whose checkpoints are loaded into the model that it began with."""


def resolve(store: Store, config: Options) -> Inputs:
    """Find everything that `config` names."""
    artifacts = {field: store.get(name, *_makers(field)) for field, name in config.refs().items()}
    places: dict[str, str] = {}
    fingerprints = {field: artifact.fingerprint for field, artifact in artifacts.items()}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        entries = {field: value} if isinstance(value, str) else label_all(field, value or ())
        for key, text in entries.items():
            places[key], fingerprints[key] = locate(store, text, kind="model" if field == "model" else "dataset")
    return Inputs(store, artifacts, places, fingerprints)


def with_absolute_paths(config: Config) -> Config:
    """Return the config with every relative path to models and data as an absolute one, as the store records it.

    Then `curate status` and `curate resume` find them from any folder. Names in the store, Hub ids and URLs stay.
    """
    changed: dict[str, str | tuple[str, ...]] = {}
    for field in config.fields_with(EXTERNAL):
        value = getattr(config, field)
        if isinstance(value, str):
            changed[field] = _absolute(value)
        elif value:
            changed[field] = tuple(_absolute(entry) for entry in value)
    return config.model_copy(update=changed)


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
    """Entries `label=path` or `path` by `field.number.label`: labels count in the fingerprint, paths do not."""
    return {f"{field}.{number}.{label_of(entry)}": entry for number, entry in enumerate(entries)}


def label_of(entry: str) -> str:
    """The label of `label=path`; of a bare path or URL its stem, of a Hub id the id."""
    label, text = label_and_location(entry)
    if label is not None:
        return label
    if is_url(text) and not local(text):
        return Path(shown(text)).stem
    try:
        path = local(text) or Path(text)
        return printable(path.stem) if path.exists() else text
    except (OSError, ValueError):  # no path, which `place` says
        return text


RUNS = ("train", SCRIPT)
"""What makes a run."""

MADE_BY: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(["pool", "eval_pool", "target"], ("ingest",)),
    **dict.fromkeys(["features", "target_features"], ("embed",)),
    **dict.fromkeys(["run", "runs"], RUNS),
    "warmup": ("train",),
    "clusters": ("cluster",),
    "subset": ("select", "curriculum"),
}
"""Field -> the stages that make what it names."""


def _makers(field: str) -> Sequence[str]:
    """The stages that a reference must come from one of, where its field's name says so; of a list, `field.number`."""
    return MADE_BY.get(field.partition(".")[0], ())


def locate(store: Store, text: str, *, kind: str) -> tuple[str, str]:
    """Where to load from and its fingerprint, for `[label=]path`, a URL, an artifact's name or a Hub id."""
    _, text = label_and_location(text)
    try:
        path = local(text) or Path(text).expanduser()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, of a user who is not there
        raise (ModelError if kind == "model" else DataError)(f"{text[:80]!r} is no path: {error}.") from None
    if there:
        return str(path), digest_path(path)
    if is_url(text):
        return _behind(text, kind)
    if store.has(text):
        artifact = store.get(text)
        return str(artifact.files), artifact.fingerprint
    return text, _hub_revision(text, kind, str(store.root))


def _behind(url: str, kind: str) -> tuple[str, str]:
    if local(url) is not None:
        raise DataError(f"There is no file or folder {local(url)}. Check the path.")
    if kind == "model":
        raise ModelError(f"Models are loaded from a folder or the Hub, not from {shown(url)}: copy it to this machine.")
    return url, digest_url(url)


def _hub_revision(repo: str, kind: str, store: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    error = ModelError if kind == "model" else DataError
    advice = f"There is no {kind} '{repo}': no such file or folder, and nothing of that name in the store {store}"
    if repo.count("/") > 1 or repo.startswith((".", "/", "~")):
        raise error(f"{advice}. Check the path.")
    try:
        cached = try_to_load_from_cache(repo, "config.json") if kind == "model" else None
        if isinstance(cached, str):
            return f"hub:{Path(cached).parent.name}"
        return f"hub:{HfApi().repo_info(repo, repo_type=kind).sha}"
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as reason:
        said = str(reason).strip().splitlines()
        raise error(
            f"{advice}; the Hub was asked and said: {said[0] if said else type(reason).__name__}. Check the path or id."
        ) from None
