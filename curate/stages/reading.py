"""How a pool is read by a model: the options that embed, inspect and train share, and the encoding of a pool."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from ..config import EXTERNAL, INERT
from ..errors import DataError
from ..log import LOGGER, bar
from ..samples import Sample
from ..store import Artifact
from .pools import pool_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..lm.encode import TokenTable
    from ..lm.load import ModelOptions


class Tokenizing(BaseModel):
    """The model, and how its tokenizer reads."""

    model: Annotated[str, EXTERNAL] = Field(
        description="Model: a folder, a Hub id, or the name of a run or model in the store."
    )
    max_length: int = Field(512, ge=2, description="Longest text in tokens; longer ones are cut at the end.")
    loss_on: Literal["assistant", "all"] = Field("assistant", description="Tokens that the loss trains on.")
    chat_template: str | None = Field(None, description="chatml, plain, or a Jinja file, for a model without one.")
    pad_token: str | None = Field(None, description="Token to pad with, for a tokenizer without one.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")

    def options(self, place: str) -> ModelOptions:
        """How to load the model that was found at `place`."""
        from ..lm.load import ModelOptions

        names = {field.name for field in dataclasses.fields(ModelOptions)} - {"place"}
        return ModelOptions(place, **self.model_dump(include=names))


class Reading(Tokenizing):
    """The model, how it reads and how it is run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the weights.")
    attn_implementation: str | None = Field(None, description="As in transformers: eager, sdpa, flash_attention_2.")
    strict: Annotated[bool, INERT] = Field(False, description="A sample with nothing to train on is an error.")


def encode_pool(
    reading: Reading,
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
    from ..lm.encode import Encoder, TokenTable, encode_all

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
    _say(refused, table, pool, strict=reading.strict)
    return table, refused


def _say(refused: dict[str, str], table: TokenTable, pool: Artifact, *, strict: bool) -> None:
    if refused:
        some = ", ".join(f"{sample_id} ({reason})" for sample_id, reason in list(refused.items())[:3])
        sentence = f"{len(refused)} samples of '{pool.name}' have nothing to train on: {some}"
        if strict or not len(table):
            raise DataError(
                f"{sentence}. Raise --max-length, choose another --chat-template, or look at them with curate inspect."
            )
        LOGGER.warning(f"{sentence}{', ...' if len(refused) > 3 else ''}. They are left out.")
    if not len(table):
        raise DataError(f"The pool '{pool.name}' is empty. Ingest something under that name first.")
    cut = int(table.truncated.sum())
    if cut:
        LOGGER.info(f"{cut} of {len(table)} samples of '{pool.name}' are longer than --max-length and are cut.")


def reading_digest(reading: Reading, tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides a sample's tokens and mask, as a hash: tokenizer, chat template, cut and mask."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = [vocabulary, backend.to_str() if backend else "", tokenizer.chat_template]
    text = json.dumps([*content, reading.max_length, reading.loss_on], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
