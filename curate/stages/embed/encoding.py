"""Encode the samples of a pool with a sentence encoder shard by shard: those that no earlier features have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...errors import DataError
from ...executors.work import Advance
from ...log import LOGGER, Stopwatch
from ...samples import Sample, split_last_answer
from ..pools import samples_between
from ..tokens.tokenization import TokenizationReport
from .columns import Lengths, records_of, vectors_of
from .config import EmbedConfig

if TYPE_CHECKING:
    from .before import Before
    from .earlier import Earlier
    from .measuring import Measuring

BATCH = 64
"""Texts that an encoder reads at once, unless --score-batch-size is given."""

NO_TEXT = "no text to encode"
NO_VECTOR = "the encoder gives no vector for the text"
"""Short reasons to reject a sample."""


def text_of(sample: Sample, on: str) -> str:
    """Return the text of a sample that is encoded: its prompt, its last answer, or both, as `curate dedup` splits it.

    The contents of messages are joined by line breaks. A plain text is a prompt.
    """
    prompt, answer = ("\n".join(content for _, content in part if content) for part in split_last_answer(sample))
    return {"prompt": prompt, "answer": answer}.get(on, "\n".join(filter(None, (prompt, answer))))


def encoder_reading(config: EmbedConfig) -> str:
    """Return a hash of what decides the text that the encoder reads; never that of tokens of a language model."""
    text = json.dumps(["sentence encoder", config.on, config.max_length])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class TextEncoder:
    """Worker that encodes and writes shards.

    Attributes:
        earlier: what earlier features have; set before the first shard.
        before: None; only losses are compared.
    """

    earlier: Earlier
    before: Before | None = None

    def __init__(self, work: Measuring) -> None:
        import torch

        from ...lm.sentence_encoders import load_encoder
        from ...store.rows.pool_rows import PoolRows

        self.work = work
        self.pool = PoolRows(work.pool.shards())
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = load_encoder(work.model_location, max_length=work.config.max_length, device=device)

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Encode shard `task`. Write its records first and its vectors last: they mark the shard as finished."""
        import torch

        config, draft, key = self.work.config, self.work.draft, f"{task:05d}"
        timer = Stopwatch()
        texts, rejected = self._read(task)
        ids = list(texts)
        new = [sample_id for sample_id, row in zip(ids, self.earlier.rows(ids), strict=True) if row < 0]
        with timer.part("encoding"):
            encoded = self._encode([texts[sample_id] for sample_id in new])
        vectors, tokens, truncated = encoded
        usable = np.isfinite(vectors).all(1) & vectors.any(1)
        rejected |= {sample_id: NO_VECTOR for sample_id, good in zip(new, usable, strict=True) if not good}
        if rejected and config.strict:
            report = EncodingReport(self.work.pool.name)
            report.reject(rejected)
            report.log_or_raise(strict=True)
        names = pa.array(new, pa.string()).filter(pa.array(usable))
        records = records_of(names, Lengths(tokens[usable], None, truncated[usable]), {})
        made = vectors_of(names, {"embedding": torch.from_numpy(vectors[usable])})
        known = self.earlier.rows([sample_id for sample_id in ids if sample_id not in rejected])
        if (known >= 0).any():
            records, made = self.earlier.joined(known, records, made)
        draft.add("features", records, key=key)
        draft.reject(rejected, key=key)
        draft.write(task, made)
        advance(self.work.size(task))
        return timer.seconds

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not texts:
            return np.zeros((0, self.encoder.dimension), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        found = self.encoder(texts, self.work.config.score_batch_size or BATCH)
        return found.vectors, found.tokens, found.truncated

    def _read(self, shard: int) -> tuple[dict[str, str], dict[str, str]]:
        """Return the texts of a shard, sample id -> text, and the samples without one, sample id -> reason."""
        from ...store.rows.pool_rows import read_repeats

        rows = self.work.rows(shard)
        repeats = read_repeats(self.work.repeats, rows.start, rows.stop)
        texts: dict[str, str] = {}
        rejected: dict[str, str] = {}
        for position, sample in samples_between(self.pool, rows.start, rows.stop):
            if position in repeats:
                continue
            text = text_of(sample, self.work.config.on)
            if text.strip():
                texts[sample.sample_id] = text
            else:
                rejected[sample.sample_id] = NO_TEXT
        return texts, rejected


class EncodingReport(TokenizationReport):
    """Counts of a pass of a sentence encoder."""

    def log_or_raise(self, *, strict: bool) -> None:
        """Log how many samples are rejected and cut; errors as in `TokenizationReport`."""
        rows = f" ({self.rejected_rows} rows)" if self.rejected_rows > self.rejected else ""
        what = f"{self.rejected} samples{rows} of '{self.pool}' have no vector: {', '.join(self.first_rejected)}"
        if self.rejected and (strict or not self.samples):
            raise DataError(f"{what}. Give --on both, or look at the samples with curate inspect.")
        if not self.samples:
            raise DataError(f"The pool '{self.pool}' is empty. Ingest data under this name first.")
        if self.rejected:
            LOGGER.warning(f"{what}{', ...' if self.rejected > len(self.first_rejected) else ''}. They are rejected.")
        if self.cut:
            LOGGER.info(f"{self.cut} of {self.samples} samples of '{self.pool}' are longer than the encoder reads.")
