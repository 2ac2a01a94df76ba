"""`curate inspect`: a pool as a model will see it. Which tokens the loss trains on is the quietest thing to get wrong,
so it can be looked at before anything is trained: a few samples token by token, then the whole pool in numbers.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..config import Options, Ref
from ..errors import DataError
from ..log import bar
from ..runtime.terminal import summary
from ..samples import Sample
from ..stages.inputs import resolve
from ..stages.pools import pool_samples
from ..stages.tokenization import TokenizerSettings
from ..store import Artifact, Store
from .flags import with_flags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..lm.tokens.encode import Encoded, Encoder

EXAMPLES = """\
curate inspect --pool pool --model Qwen/Qwen2.5-0.5B
curate inspect --pool pool --model M --chat-template chatml --max-length 1024 --samples 10
curate inspect --pool pool --model M --sample-id 3f0c5d2e9b7a41f68c1d0e2b4a597683
"""

BOLD_UNDERLINED, PLAIN = "\x1b[1;4m", "\x1b[0m"
PERCENTILES = (50, 90, 95, 99, 100)
NAMED = 3
"""Refused samples that are named for each reason."""


class InspectConfig(TokenizerSettings, Options):
    """What is looked at, and with whose tokenizer."""

    pool: Ref = Field(description="The pool, as named at ingest.")
    samples: int = Field(3, ge=0, description="Samples to show, chosen at random.")
    sample_id: str | None = Field(None, description="Show this sample instead.")
    seed: int = Field(0, ge=0, description="Seed of the choice.")


@dataclass(frozen=True)
class TokenizedSample:
    """A sample and what became of it: `row` is None where its mask cannot be told.

    Attributes:
        position: row of the pool.
        sample: the conversation.
        row: all of its tokens, before the cut.
        refusal: why it cannot be trained on, in a few words.
        reason: the same at length.
    """

    position: int
    sample: Sample
    row: Encoded | None
    refusal: str | None = None
    reason: str | None = None


@dataclass
class Counts:
    """Samples of a pool, or of one of its sources, and the tokens of those whose mask can be told."""

    samples: int = 0
    refused: int = 0
    cut: int = 0
    before: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)

    def totals(self) -> dict[str, Any]:
        """Sums over samples."""
        sums = {"tokens": sum(self.before), "tokens trained on": sum(self.trained)}
        return {"samples": self.samples, **sums, "cut": self.cut, "refused": self.refused}


@dataclass
class PoolStatistics:
    """The whole pool in numbers."""

    max_length: int
    everything: Counts = field(default_factory=Counts)
    by_source: dict[str, Counts] = field(default_factory=dict)
    refused: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, seen: TokenizedSample) -> None:
        """Count a sample."""
        for counts in (self.everything, self.by_source.setdefault(seen.sample.source, Counts())):
            counts.samples += 1
            counts.refused += seen.refusal is not None
            if seen.row is not None:
                counts.before.append(seen.row.length)
                counts.trained.append(seen.row.truncate(self.max_length).target_tokens)
                counts.cut += seen.row.length > self.max_length
        if seen.refusal:
            self.refused.setdefault(seen.refusal, Counter())[seen.sample.sample_id] += 1


def inspect(store: Store, config: InspectConfig) -> None:
    """`curate inspect`: print samples as the model will see them, and the pool in tokens."""
    from ..lm.model.load import load_tokenizer
    from ..lm.tokens.encode import Encoder

    inputs = resolve(store, config)
    pool = inputs.artifacts["pool"]
    tokenizer = load_tokenizer(config.options(inputs.locations["model"]))
    encoder = Encoder(tokenizer, max_length=sys.maxsize, loss_on=config.loss_on)
    wanted = set(random.Random(config.seed).sample(range(pool.rows or 0), min(config.samples, pool.rows or 0)))
    chosen: dict[str, TokenizedSample] = {}
    census = PoolStatistics(config.max_length)
    for seen in look(pool, encoder, config.max_length):
        census.add(seen)
        if seen.sample.sample_id == config.sample_id or (config.sample_id is None and seen.position in wanted):
            chosen.setdefault(seen.sample.sample_id, seen)
    if config.sample_id is not None and not chosen:
        raise DataError(
            f"The pool '{pool.name}' has no sample {config.sample_id}. Find one with curate query \"SELECT sample_id "
            f"FROM samples WHERE pool = '{pool.name}'\"."
        )
    marks = (BOLD_UNDERLINED, PLAIN) if sys.stdout.isatty() else ("⟦", "⟧")
    lines = [f"Tokens that the loss trains on are shown {marks[0]}like this{marks[1]}.", ""] if chosen else []
    for seen in chosen.values():
        lines += [*shown(seen, pool, tokenizer, config.max_length, marks), ""]
    print("\n".join([*lines, *summary(numbers(config, encoder, census))]))


def look(pool: Artifact, encoder: Encoder, max_length: int) -> Iterator[TokenizedSample]:
    """Every row of a pool with its tokens."""
    from ..lm.tokens.encode import MaskError

    with bar(total=pool.rows, label=f"tokenize {pool.name}", unit="sample") as progress:
        for position, sample in pool_samples(pool):
            progress.update()
            try:
                row = encoder(sample)
            except MaskError as error:
                yield TokenizedSample(position, sample, None, error.reason, str(error))
                continue
            refusal = row.truncate(max_length).reject_reason
            yield TokenizedSample(position, sample, row, refusal, refusal)


def shown(
    seen: TokenizedSample, pool: Artifact, tokenizer: PreTrainedTokenizerBase, max_length: int, marks: tuple[str, str]
) -> list[str]:
    """A sample: where it is, its text with marks around what is trained on, its token ids."""
    title = f"Sample {seen.sample.sample_id} (row {seen.position} of {pool.name}, from {seen.sample.source})"
    if seen.row is None:
        return [title, f"refused: {seen.reason}"]
    row = seen.row.truncate(max_length)
    about = f"{row.length} tokens, {row.target_tokens} trained on"
    if row.truncated:
        about += f"; cut to {len(row.input_ids)}"
    if seen.reason:
        about += f"; refused: {seen.reason}"
    end = ["[cut here]"] if row.truncated else []
    ids = " ".join(map(str, row.input_ids.tolist()))
    return [title, about, "", marked(row, tokenizer, marks), *end, "", f"ids {ids}"]


def marked(row: Encoded, tokenizer: PreTrainedTokenizerBase, marks: tuple[str, str]) -> str:
    """The tokens' text with `marks` around each stretch that the loss trains on."""
    target = row.target.copy()
    target[:1] = False  # the first token is never predicted
    ends = [i for i in range(1, len(target) + 1) if i == len(target) or target[i] != target[i - 1]]
    parts, before = [], ""
    for end in ends:
        # Decoded from the start, because some tokenizers drop a space where a text begins. A character whose bytes
        # are on both sides of an end (U+FFFD until it is whole) belongs to what comes after.
        text = str(tokenizer.decode(row.input_ids[:end].tolist(), clean_up_tokenization_spaces=False))
        text = text if end == len(target) else text.rstrip("\ufffd")
        part = printable(text[len(before) :])
        parts.append(f"{marks[0]}{part}{marks[1]}" if target[end - 1] else part)
        before = text
    return "".join(parts)


def printable(text: str) -> str:
    """Text that cannot steer the terminal: control characters but tab and new line as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def numbers(config: InspectConfig, encoder: Encoder, census: PoolStatistics) -> dict[str, Any]:
    """The whole pool, for people."""
    everything = census.everything
    values = {"pool": config.pool, "model": config.model, "max_length": config.max_length}
    values |= {"trained on": how(config, encoder), **everything.totals()}
    lengths = {"before the cut": everything.before, "trained on": everything.trained}
    values["tokens of a sample"] = [{"": what, **percentiles(counts)} for what, counts in lengths.items() if counts]
    if census.refused:
        values["refused, by reason"] = {
            reason: f"{ids.total()}, such as {', '.join(list(ids)[:NAMED])}" for reason, ids in census.refused.items()
        }
    if len(census.by_source) > 1:
        values["by source"] = [{"source": source, **counts.totals()} for source, counts in census.by_source.items()]
    return values


def how(config: InspectConfig, encoder: Encoder) -> str:
    """Which way the mask was found."""
    if config.loss_on == "all":
        return "all tokens"
    if encoder.has_generation_marks:
        return "assistant tokens, by the generation marks of the chat template"
    return "assistant tokens, by prefixes: the chat template has no generation marks"


def percentiles(counts: list[int]) -> dict[str, int]:
    """Lengths that this share of samples does not exceed; each is the length of some sample."""
    import numpy as np

    values = np.percentile(counts, PERCENTILES, method="inverted_cdf").tolist()
    names = ["max" if percent == 100 else f"p{percent}" for percent in PERCENTILES]
    return dict(zip(names, map(int, values), strict=True))


command = with_flags(InspectConfig, lambda root, config: inspect(Store(root), config))
