"""Tokenize a pool for a model: the options that embed, inspect and train share, and the report of rejected samples.

Two artifacts that were made with the same `tokenization_digest` have the same tokens and loss masks, so their losses
can be compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...log import LOGGER, bar
from ...samples import Sample
from ...store import Artifact
from ..pools import pool_samples, rows_with
from ..settings import ModelSettings, TokenizerSettings
from ..subsets import subset_of
from .turns import Expansion, check_all_read, is_chosen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.encode import Encoder
    from ...lm.tokens.token_table import TokenTable


SHOWN = 3
"""Number of rejected samples that a message names."""


@dataclasses.dataclass(frozen=True)
class TokenizedPool:
    """The samples of a pool, tokenized.

    Attributes:
        table: tokens of the samples that can be trained on.
        rejected: the other samples: sample id -> reason.
        expansion: the answers that are samples of their own.
    """

    table: TokenTable
    rejected: dict[str, str]
    expansion: Expansion


def make_encoder(settings: TokenizerSettings, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Encoder:
    """Return the encoder that the settings describe; `options` replace single ones."""
    from ...lm.tokens.encode import Encoder

    names = ("max_length", "loss_on", "turns")
    return Encoder(tokenizer, **{**{name: getattr(settings, name) for name in names}, **options})


def encode_pool(
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    pool: Artifact,
    *,
    distinct: bool = False,
    subset: Artifact | None = None,
) -> TokenizedPool:
    """Tokenize a pool, each conversation whole or split into its answers.

    Args:
        settings: options of the model and its tokenizer.
        tokenizer: tokenizer of the model.
        pool: the pool's artifact.
        distinct: encode each conversation once, where it comes first.
        subset: the subset of the pool to encode; None encodes all samples. A conversation in it stands for all of its
            answers.

    Raises:
        DataError: no sample of the pool can be trained on; or `settings.strict` is set and a sample cannot; or the
            subset is of another pool, or has answers of conversations that are read whole.
    """
    from ...lm.tokens.encode import encode_all
    from ...lm.tokens.token_table import TokenTable

    only = subset_of(pool, subset)
    expansion = Expansion(make_encoder(settings, tokenizer))
    rejected: dict[str, str] = {}
    encoded: set[str] = set()

    def conversations() -> Iterator[tuple[int, Sample]]:
        with bar(total=pool.rows, label=f"tokenize {pool.name}", unit="sample") as progress:
            for position, sample in pool_samples(pool):
                progress.update()
                if (distinct and sample.sample_id in encoded) or (only is not None and not is_chosen(sample, only)):
                    continue
                encoded.add(sample.sample_id)
                yield position, sample

    samples = expansion(conversations())
    if only is not None:
        samples = ((p, s) for p, s in samples if s.sample_id in only or s.conversation_id in only)
    table = TokenTable(encode_all(samples, expansion.encoder, rejected), expansion.turns)
    if only is not None and subset is not None:
        check_all_read(only, {*table.ids, *rejected}, expansion.conversations, subset.name)
    report = TokenizationReport(pool.name, len(table), int(table.lengths.sum()), int(table.truncated.sum()))
    report.reject(rejected)
    report.rejected_rows = rows_with(pool, rejected)
    report.log_or_raise(strict=settings.strict)
    return TokenizedPool(table, rejected, expansion)


@dataclasses.dataclass
class TokenizationReport:
    """Counts from the tokenization of a pool, or of a part of it.

    Attributes:
        pool: name of the pool.
        samples: number of samples that can be trained on.
        tokens: number of their tokens, after long texts are cut.
        cut: number of samples that are cut.
        rejected: number of samples that have no token to train on.
        rejected_rows: number of rows of the pool with one of these samples, or 0 if it was not counted.
        first_rejected: the first of these, with the reason, for messages.
    """

    pool: str
    samples: int = 0
    tokens: int = 0
    cut: int = 0
    rejected: int = 0
    rejected_rows: int = 0
    first_rejected: list[str] = dataclasses.field(default_factory=list)

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Count samples that have no token to train on: sample id -> reason."""
        self.rejected += len(reasons)
        for sample_id, reason in itertools.islice(reasons.items(), SHOWN - len(self.first_rejected)):
            self.first_rejected.append(f"{sample_id} ({reason})")

    @classmethod
    def counts(cls, pool: Artifact, rejected: Collection[str]) -> dict[str, int]:
        """Return the counts of rejected samples of a pool for a summary, as `rejects`."""
        report = cls(pool.name, rejected=len(rejected), rejected_rows=rows_with(pool, rejected))
        return report.rejects()

    def rejects(self) -> dict[str, int]:
        """Return the counts for a summary: by row, and by sample if samples are in the pool several times."""
        if self.rejected_rows <= self.rejected:
            return {"rejected": self.rejected}
        return {"rejected": self.rejected_rows, "rejected samples": self.rejected}

    def log_or_raise(self, *, strict: bool) -> None:
        """Log how many samples are rejected and cut.

        Raises:
            DataError: no sample is left, or `strict` is set and a sample is rejected.
        """
        if self.rejected and (strict or not self.samples):
            raise DataError(
                f"{self._rejection()}. Raise --max-length, use another --chat-template, or look at the samples with "
                "curate inspect."
            )
        if not self.samples:
            raise DataError(f"The pool '{self.pool}' is empty. Ingest data under this name first.")
        if self.rejected:
            LOGGER.warning(f"{self._rejection()}{', ...' if self.rejected > SHOWN else ''}. They are rejected.")
        if self.cut:
            LOGGER.info(
                f"{self.cut} of {self.samples} samples of '{self.pool}' are longer than --max-length and are cut."
            )

    def _rejection(self) -> str:
        rows = f" ({self.rejected_rows} rows)" if self.rejected_rows > self.rejected else ""
        return (
            f"{self.rejected} samples{rows} of '{self.pool}' have nothing to train on: {', '.join(self.first_rejected)}"
        )


def tokenization_digest(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides a sample's tokens and loss mask.

    It covers the tokenizer, the chat template, the maximum length, the choice of tokens that the loss trains on, and
    the day of a chat template that reads the clock. It need not
    cover `turns`: an answer that is a sample of its own has another id than its conversation.
    """
    from ...lm.templates.clock import date_of, reads_clock

    vocabulary = sorted(tokenizer.get_vocab().items())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = [vocabulary, backend.to_str() if backend else "", tokenizer.chat_template]
    date = [date_of(tokenizer)] if reads_clock(tokenizer.chat_template) else []
    text = json.dumps([*content, settings.max_length, settings.loss_on, *date], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
