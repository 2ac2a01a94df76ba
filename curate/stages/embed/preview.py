"""Say what a pass would measure, and what it would take from earlier features. Nothing is measured or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ...runtime.terminal import summary
from ...samples import Sample
from ...store import Artifact, Store
from ..inputs import Inputs
from ..pools import pool_samples
from ..tokens.tokenization import make_encoder, tokenization_digest
from ..tokens.turns import Expansion, have_several_answers
from .config import EmbedConfig
from .earlier import earlier_features, known_samples
from .encoding import encoder_reading

if TYPE_CHECKING:
    from ...lm.tokens.encode import Encoder

FOUND = "These features exist: nothing would be measured."


def preview(config: EmbedConfig, store: Store) -> str | None:
    """Return for `--dry-run` how many samples would be measured, and None without it. No model is loaded."""
    if not config.dry_run:
        return None
    from .. import is_made, made_from

    config = config.model_copy(update={"dry_run": False})
    if is_made(store, "embed", config):
        return FOUND
    made, inputs, _ = made_from(store, "embed", config)
    config = EmbedConfig(**made.model_dump())
    pool = inputs.artifacts["pool"]
    encoder, reading = _encoder(config, inputs)
    owner: dict[str, str] = {}
    for artifact in earlier_features(config, inputs, reading):
        for sample_id in known_samples(store, artifact, config.signals)["sample_id"].to_pylist():
            owner.setdefault(sample_id, artifact.name)
    ids = set(_samples(config, pool, encoder))
    taken = Counter(owner[sample_id] for sample_id in ids if sample_id in owner)
    new = len(ids) - taken.total()
    return "\n".join(
        [
            *summary({"samples": len(ids), **{f"taken from {name}": count for name, count in sorted(taken.items())}}),
            f"{new} would be measured, but for those that have nothing to train on." if new else "No pass is needed.",
        ]
    )


def _encoder(config: EmbedConfig, inputs: Inputs) -> tuple[Encoder | None, str]:
    """Return what encodes samples as tokens, None for a sentence encoder, and the digest of what would be read."""
    if config.encoder is not None:
        return None, encoder_reading(config)
    from ...lm.model.load import load_tokenizer

    tokenizer = load_tokenizer(config.options(inputs.locations["model"]))
    return make_encoder(config, tokenizer), tokenization_digest(config, tokenizer)


def _samples(config: EmbedConfig, pool: Artifact, encoder: Encoder | None) -> Iterator[str]:
    """Yield the ids of the pool's samples: conversations, or answers where the options split conversations."""
    if encoder is None or config.turns == "whole" or not have_several_answers([pool]):
        for table in pool.tables(["sample_id"]):
            yield from table["sample_id"].to_pylist()
        return
    for _, sample in Expansion(encoder)(_distinct(pool)):
        yield sample.sample_id


def _distinct(pool: Artifact) -> Iterator[tuple[int, Sample]]:
    """Yield the first row of each conversation with its position."""
    seen: set[str] = set()
    for position, sample in pool_samples(pool):
        if sample.sample_id not in seen:
            seen.add(sample.sample_id)
            yield position, sample


def more_inputs(config: EmbedConfig, inputs: Inputs) -> dict[str, str]:
    """Refuse `--dry-run` where something would be made; there are no further inputs."""
    if config.dry_run:
        raise ConfigError("--dry-run makes nothing: it is for the command line, not for a pipeline.")
    return {}
