"""How a pool is read by a model: the options that embed, inspect and train share, and the encoding of a pool."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from ..config import EXTERNAL, NOT_HASHED, POWER
from ..errors import DataError
from ..log import LOGGER, bar
from ..samples import Sample
from ..store import Artifact
from .pools import pool_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..lm.model.load import ModelOptions
    from ..lm.tokens.token_table import TokenTable


SHOWN = 3
"""How many samples are named of those that have nothing to train on."""


class TokenizerSettings(BaseModel):
    """The model, and how its tokenizer reads."""

    model: Annotated[str, EXTERNAL] = Field(
        description="Model: a folder, a Hub id, or the name of a run or model in the store."
    )
    max_length: int = Field(512, ge=2, description="Longest text in tokens; longer ones are cut at the end.")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="Tokens that the loss trains on.")
    chat_template: Annotated[str | None, POWER] = Field(
        None, description="chatml, plain, or a Jinja file, for a model without one."
    )
    pad_token: str | None = Field(None, description="Token to pad with, for a tokenizer without one.")
    trust_remote_code: Annotated[bool, POWER] = Field(False, description="Run code that comes with the model.")

    def options(self, place: str) -> ModelOptions:
        """How to load the model that was found at `place`."""
        from ..lm.model.load import ModelOptions

        names = {field.name for field in dataclasses.fields(ModelOptions)} - {"place"}
        return ModelOptions(place, **self.model_dump(include=names))


class ModelSettings(TokenizerSettings):
    """The model, how it reads and how it is run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the weights.")
    attn_implementation: str | None = Field(None, description="As in transformers: eager, sdpa, flash_attention_2.")
    load_in_4bit: bool = Field(False, description="Base weights in 4 bits (bitsandbytes); adapters train on them.")
    strict: Annotated[bool, NOT_HASHED] = Field(False, description="A sample with nothing to train on is an error.")


def encode_pool(
    reading: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    pool: Artifact,
    *,
    distinct: bool = False,
    only: Collection[str] | None = None,
) -> tuple[TokenTable, dict[str, str]]:
    """A pool as tokens, and the samples that cannot be trained on: id -> reason.

    Args:
        reading: the options.
        tokenizer: of the model.
        pool: the artifact.
        distinct: each conversation once.
        only: no samples but these.
    """
    from ..lm.tokens.encode import Encoder, encode_all
    from ..lm.tokens.token_table import TokenTable

    encoder = Encoder(tokenizer, max_length=reading.max_length, loss_on=reading.loss_on)
    refused: dict[str, str] = {}
    seen: set[str] = set()

    def samples() -> Iterator[tuple[int, Sample]]:
        with bar(total=pool.rows, label=f"tokenize {pool.name}", unit="sample") as progress:
            for position, sample in pool_samples(pool):
                progress.update()
                if (distinct and sample.sample_id in seen) or (only is not None and sample.sample_id not in only):
                    continue
                seen.add(sample.sample_id)
                yield position, sample

    table = TokenTable(encode_all(samples(), encoder, refused))
    outcome = TokenizationReport(pool.name, len(table), int(table.lengths.sum()), int(table.truncated.sum()))
    outcome.refuse(refused)
    outcome.say(strict=reading.strict)
    return table, refused


@dataclasses.dataclass
class TokenizationReport:
    """What came of reading a pool, or a part of it.

    Attributes:
        pool: its name.
        samples: that can be trained on.
        tokens: that they have after the cut.
        cut: how many are cut.
        refused: how many have nothing to train on.
        some: the first of those, with the reason.
    """

    pool: str
    samples: int = 0
    tokens: int = 0
    cut: int = 0
    refused: int = 0
    some: list[str] = dataclasses.field(default_factory=list)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Count samples that have nothing to train on: id -> reason."""
        self.refused += len(reasons)
        for sample_id, reason in itertools.islice(reasons.items(), SHOWN - len(self.some)):
            self.some.append(f"{sample_id} ({reason})")

    def say(self, *, strict: bool) -> None:
        """Tell what is left out and what is cut; `DataError` where nothing is left, or nothing may be left out."""
        if self.refused and (strict or not self.samples):
            raise DataError(
                f"{self._refusal()}. Raise --max-length, choose another --chat-template, or look at them with curate "
                "inspect."
            )
        if not self.samples:
            raise DataError(f"The pool '{self.pool}' is empty. Ingest something under that name first.")
        if self.refused:
            LOGGER.warning(f"{self._refusal()}{', ...' if self.refused > SHOWN else ''}. They are left out.")
        if self.cut:
            LOGGER.info(
                f"{self.cut} of {self.samples} samples of '{self.pool}' are longer than --max-length and are cut."
            )

    def _refusal(self) -> str:
        return f"{self.refused} samples of '{self.pool}' have nothing to train on: {', '.join(self.some)}"


def tokenization_digest(reading: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides a sample's tokens and mask, as a hash: tokenizer, chat template, cut and mask."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = [vocabulary, backend.to_str() if backend else "", tokenizer.chat_template]
    text = json.dumps([*content, reading.max_length, reading.loss_on], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
