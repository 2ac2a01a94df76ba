"""Read the samples of a selection by gradients as its warm-up run reads them: whole, or split into answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import DataError
from ...log import LOGGER
from ...samples import Sample
from ...store import Artifact
from ..consent import Consent, check
from ..inputs import Inputs, locate
from ..pools import pool_samples
from ..settings import ModelSettings
from ..tokens.tokenization import make_encoder
from ..tokens.turns import Answers, Expansion, is_chosen

if TYPE_CHECKING:
    from ...lm.tokens.encode import Encoder
    from ...lm.tokens.token_table import TokenTable
    from .config import SelectConfig


def answers_of_pool(config: SelectConfig, inputs: Inputs) -> Answers:
    """Return the answers of the pool that the warm-up run would read as samples of their own."""
    expansion = Expansion(warmup_encoder(warmup_settings(config, inputs), inputs))
    for _ in expansion(pool_samples(inputs.artifacts["pool"])):
        pass
    return expansion.answers


def warmup_settings(config: SelectConfig, inputs: Inputs) -> ModelSettings:
    """Return the options of the warm-up run's model and tokenizer; the command allows code of the model or not."""
    return recorded_settings(inputs.artifacts["warmup"], allowed=config.trust_remote_code)


def recorded_settings(run: Artifact, *, allowed: bool) -> ModelSettings:
    """Return the options of a run's model and tokenizer.

    Args:
        run: the run.
        allowed: whether the command allows code that comes with the model.

    Raises:
        ConfigError: the run asks to run such code, and the command does not allow it.
    """
    asked = {"trust_remote_code": run.config.get("trust_remote_code", False)}
    check(asked, Consent({"trust_remote_code": allowed}), f"The run '{run.name}'")
    # The other options were checked when the run was made.
    recorded = ModelSettings.recorded(run.config)
    return ModelSettings.model_construct(**{**recorded, "trust_remote_code": allowed})


def warmup_encoder(settings: ModelSettings, inputs: Inputs) -> Encoder:
    from ...lm.model.load import load_tokenizer

    base, _ = locate(inputs.store, settings.model, kind="model")
    return make_encoder(settings, load_tokenizer(settings.options(base)))


def encode_candidates(pool: Artifact, ids: Sequence[str], encoder: Encoder) -> dict[int, tuple[TokenTable, int]]:
    """Tokenize the candidates as the warm-up run does.

    Return index in `ids` -> (token table, row of the sample in it). A sample that has no token to train on is missing
    from the result.

    Raises:
        DataError: candidates are conversations that the warm-up run reads as answers, or the other way round.
    """
    index_of = {sample_id: index for index, sample_id in enumerate(ids)}
    expansion = Expansion(encoder)
    rejected: dict[str, str] = {}
    table = encode_distinct(pool, expansion, set(ids), rejected)
    if unread := index_of.keys() - {*table.ids, *rejected}:
        raise DataError(
            f"{len(unread)} candidates, {min(unread)} among them, are read otherwise by the warm-up run: as whole "
            "conversations or as answers. Give features and clusters that were made with the run's --turns."
        )
    return {index_of[sample_id]: (table, row) for row, sample_id in enumerate(table.ids)}


def encode_distinct(
    pool: Artifact, expansion: Expansion, only: set[str] | None = None, rejected: dict[str, str] | None = None
) -> TokenTable:
    """Tokenize the distinct samples of a pool, or those with the ids `only`, and log how many are rejected.

    Args:
        pool: the pool.
        expansion: splits conversations into answers.
        only: ids of the samples; None: all.
        rejected: receives sample id -> reason.
    """
    from ...lm.tokens.encode import encode_all
    from ...lm.tokens.token_table import TokenTable

    rejected = {} if rejected is None else rejected
    distinct: set[str] = set()

    def samples() -> Iterator[tuple[int, Sample]]:
        for position, sample in pool_samples(pool):
            if sample.sample_id not in distinct and (only is None or is_chosen(sample, only)):
                distinct.add(sample.sample_id)
                yield position, sample

    split = (
        (position, sample) for position, sample in expansion(samples()) if only is None or sample.sample_id in only
    )
    table = TokenTable(encode_all(split, expansion.encoder, rejected), expansion.turns)
    if rejected:
        LOGGER.warning(f"{len(rejected)} samples of '{pool.name}' have nothing to train on: they get no score.")
    if not len(table):
        raise DataError(f"No sample of '{pool.name}' has anything to train on: raise the warm-up run's --max-length.")
    return table
