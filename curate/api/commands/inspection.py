"""Inspect a pool as the model will see it, before any training.

A loss on the wrong tokens raises no error. So an inspection has a few samples token by token, with the tokens that the
loss trains on marked, and the counts of the tokens of the whole pool.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ...config import Options, Ref
from ...errors import ConfigError, DataError
from ...log import bar
from ...runtime.terminal import cell
from ...samples import Sample, answer_turns
from ...stages.inputs import Inputs, resolve
from ...stages.pools import pool_samples
from ...stages.settings import TokenizerSettings
from ...stages.tokens.frozen_date import day_of
from ...stages.tokens.kept_in_step import KeptInStep, kept_in_step
from ...stages.tokens.tokenization import make_encoder
from ...stages.tokens.turns import Expansion
from ...store import Artifact, Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.encode import Encoded, Encoder

SHOWN_ANSWERS = 3
"""Number of answers of a drawn conversation that are shown; --sample-id shows all."""

PERCENTILES = (50, 90, 95, 99, 100)
NAMED = 3
"""Number of rejected samples that the summary names for each reason."""


class InspectConfig(TokenizerSettings, Options):
    """Options of an inspection: the pool, the tokenizer and the samples to show."""

    pool: Ref = Field(description="Name of the pool, as given to curate ingest.")
    samples: int = Field(3, ge=0, description="Number of samples to show. They are drawn at random.")
    sample_id: str | None = Field(None, description="Show only the sample with this id.")
    seed: int = Field(0, ge=0, description="Seed of the random draw.")
    run: Ref | None = Field(
        None,
        description="Show samples that this run kept in a step, with the tokens that it trained on then: q_tuning and "
        "other selectors leave some out. Length, loss mask and turns are those of the run unless you give them.",
    )
    step: int | None = Field(None, ge=1, description="With --run: the step; by default the last one.")

    @model_validator(mode="after")
    def _has_a_run(self) -> InspectConfig:
        if self.step is not None and self.run is None:
            raise ConfigError("--step is a step of a run: give --run NAME, too.")
        return self


@dataclass(frozen=True)
class TokenizedSample:
    """A sample with its tokens.

    Attributes:
        position: the row of the sample in the pool.
        sample: the conversation, or one of its answers.
        answers: number of samples that the conversation is split into; 0 if it is whole.
        encoded: all tokens of the sample, before truncation; None if the loss mask cannot be determined.
        reject_reason: the reason why training rejects the sample, in a few words; None if training accepts it.
        explanation: the same reason in full.
        left_out: in words, how many target tokens a run left out; None: none.
    """

    position: int
    sample: Sample
    answers: int
    encoded: Encoded | None
    reject_reason: str | None = None
    explanation: str | None = None
    left_out: str | None = None


@dataclass
class Counts:
    """Counts of a pool, or of one of its sources. Only samples with a known loss mask add to the numbers of tokens.

    Attributes:
        samples: number of samples.
        rejected: number of samples that training rejects.
        cut: number of samples that are longer than the limit.
        before: number of tokens of each sample, before truncation.
        trained: number of tokens of each sample that the loss trains on, after truncation.
    """

    samples: int = 0
    rejected: int = 0
    cut: int = 0
    before: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)

    def totals(self) -> dict[str, Any]:
        """Return the sums over the samples, by the label that the command prints."""
        sums = {"tokens": sum(self.before), "tokens trained on": sum(self.trained)}
        return {"samples": self.samples, **sums, "cut": self.cut, "rejected": self.rejected}


@dataclass
class PoolStatistics:
    """Statistics of a whole pool.

    Attributes:
        max_length: the limit of tokens per sample.
        whole: counts of all samples.
        by_source: counts of the samples of each source.
        rejected: for each reason, how often each sample id was rejected.
        routes: (`whole` or `expand`, reason) -> number of conversations.
        answers: number of answers that are samples of their own.
    """

    max_length: int
    whole: Counts = field(default_factory=Counts)
    by_source: dict[str, Counts] = field(default_factory=dict)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    routes: Counter[tuple[str, str]] = field(default_factory=Counter)
    answers: int = 0

    def add(self, tokenized: TokenizedSample) -> None:
        """Count one sample."""
        encoded = tokenized.encoded
        self.answers += tokenized.answers > 0
        for counts in (self.whole, self.by_source.setdefault(tokenized.sample.source, Counts())):
            counts.samples += 1
            counts.rejected += tokenized.reject_reason is not None
            if encoded is not None:
                counts.before.append(encoded.length)
                counts.trained.append(encoded.truncate(self.max_length).target_tokens)
                counts.cut += encoded.length > self.max_length
        if tokenized.reject_reason:
            self.rejected.setdefault(tokenized.reject_reason, Counter())[tokenized.sample.sample_id] += 1


@dataclass(frozen=True)
class Inspection:
    """A pool as a model sees it.

    Attributes:
        pool: name of the pool.
        samples: the shown samples.
        trains_on: the subject of "shown tokens are those that": the loss, or a run in a step.
        kept: number of samples that the run kept in the step; None without a run.
        max_length: the limit of tokens per sample.
        summary: statistics of the whole pool, by the label that the command prints.
        tokenizer: the tokenizer that turns tokens into text.
    """

    pool: str
    samples: Sequence[TokenizedSample]
    trains_on: str
    kept: int | None
    max_length: int
    summary: Mapping[str, Any]
    tokenizer: PreTrainedTokenizerBase

    @property
    def heading(self) -> str:
        """Sentence about the samples, without the mark of their tokens."""
        if self.kept is not None and len(self.samples) < self.kept:
            return f"{len(self.samples)} of the {self.kept} kept samples are shown."
        return ""


def inspect_pool(store: Store, config: InspectConfig) -> Inspection:
    """Tokenize a pool, and return the samples to show and the statistics of all.

    Raises:
        DataError: the sample to show is not in the pool, or the run did not keep it in the step.
    """
    from ...lm.model.load import load_tokenizer

    inputs = resolve(store, config)
    pool = inputs.artifacts["pool"]
    config = config.model_copy(update={"date": day_of(config, inputs), **_of_run(config, inputs)})
    tokenizer = load_tokenizer(config.options(inputs.locations["model"]))
    expansion = Expansion(make_encoder(config, tokenizer, max_length=sys.maxsize))
    trained = None if config.run is None else kept_in_step(store, inputs.artifacts["run"], pool, config.step)
    drawn = _drawn(config, range(pool.rows or 0) if trained is None else trained.masks)
    chosen: dict[str, TokenizedSample] = {}
    statistics = PoolStatistics(config.max_length)
    for tokenized in tokenize(pool, expansion, config.max_length):
        statistics.add(tokenized)
        sample = tokenized.sample
        if trained is not None:
            is_chosen = sample.sample_id in (trained.masks if config.sample_id else drawn)
        else:
            is_chosen = tokenized.position in drawn and is_shown(sample)
        if config.sample_id in (sample.sample_id, sample.conversation_id) if config.sample_id else is_chosen:
            chosen.setdefault(
                sample.sample_id, tokenized if trained is None else _as_trained(tokenized, trained, config)
            )
    statistics.routes = expansion.routes
    _require_sample(config, pool, trained, chosen)
    trains_on = "the loss trains on" if trained is None else f"run {cell(config.run)} trained on in step {trained.step}"
    kept = None if trained is None else len(trained.masks)
    counts = pool_summary(config, expansion.encoder, statistics)
    return Inspection(pool.name, list(chosen.values()), trains_on, kept, config.max_length, counts, tokenizer)


def _require_sample(
    config: InspectConfig, pool: Artifact, trained: KeptInStep | None, chosen: Mapping[str, TokenizedSample]
) -> None:
    """Raise `DataError` if the sample to show is not in the pool, or the run did not keep it in the step."""
    if config.sample_id is not None and trained is not None and config.sample_id not in trained.masks:
        raise DataError(f"The run '{config.run}' did not keep sample {config.sample_id} in step {trained.step}.")
    if config.sample_id is not None and not chosen:
        raise DataError(
            f"The pool '{pool.name}' has no sample {config.sample_id}. Find one with curate query "
            f"\"SELECT sample_id FROM samples WHERE pool = '{pool.name}'\"."
        )


def _of_run(config: InspectConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the options of the run that decide which tokens are targets, as far as none was given here.

    A chat template is not among them: it may be a file, which a received store must not choose.
    """
    if config.run is None:
        return {}
    recorded = inputs.artifacts["run"].config
    names = {"max_length", "loss_on", "turns"} & recorded.keys() - config.model_fields_set
    return {
        name: getattr(InspectConfig(**{**config.model_dump(), name: recorded[name]}), name) for name in sorted(names)
    }


def _as_trained(tokenized: TokenizedSample, trained: KeptInStep, config: InspectConfig) -> TokenizedSample:
    """Return a kept sample whose targets are the tokens that were trained on."""
    encoded = trained.encoded(tokenized.sample.sample_id, tokenized.encoded, config.max_length)
    count, own = encoded.truncate(config.max_length).target_tokens, trained.targets[tokenized.sample.sample_id]
    left_out = f"{own - count} of {own} target tokens left out in step {trained.step}" if count < own else None
    return replace(tokenized, encoded=encoded, left_out=left_out)


def _drawn(config: InspectConfig, candidates: Iterable[Any]) -> set[Any]:
    """Return the positions or sample ids that are drawn at random to be shown."""
    among = sorted(candidates)
    return set(random.Random(config.seed).sample(among, min(config.samples, len(among))))


def is_shown(sample: Sample) -> bool:
    """Return whether a sample of a drawn conversation is shown: a whole one, or one of its first answers."""
    return sample.answer is None or len(answer_turns(sample.messages)) <= SHOWN_ANSWERS


def tokenize(pool: Artifact, expansion: Expansion, max_length: int) -> Iterator[TokenizedSample]:
    """Yield the samples of every row of a pool, with their tokens."""
    from ...lm.tokens.encode import MaskError

    with bar(total=pool.rows, label=f"tokenize {pool.name}", unit="sample") as progress:
        for position, sample in pool_samples(pool):
            progress.update()
            parts = expansion.split(sample)
            answers = 0 if parts[0] is sample else len(parts)
            for part in parts:
                try:
                    encoded = expansion.encoder(part)
                except MaskError as error:
                    yield TokenizedSample(position, part, answers, None, error.reason, str(error))
                    continue
                reason = encoded.truncate(max_length).reject_reason
                yield TokenizedSample(position, part, answers, encoded, reason, reason)


def about(tokenized: TokenizedSample, max_length: int) -> str:
    """Return the counts of a sample's tokens as a line, or the reason why it has none."""
    if tokenized.encoded is None:
        return f"rejected: {cell(tokenized.explanation)}"
    encoded = tokenized.encoded.truncate(max_length)
    text = f"{encoded.length} tokens, {encoded.target_tokens} trained on"
    if encoded.truncated:
        text += f"; cut to {len(encoded.input_ids)}"
    if tokenized.left_out:
        text += f"; {tokenized.left_out}"
    if tokenized.explanation:
        text += f"; rejected: {cell(tokenized.explanation)}"
    return text


def segments(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """Return the text of the tokens in parts, each with whether the loss trains on it."""
    target = encoded.target.copy()
    target[:1] = False  # the first token is never predicted
    ends = [i for i in range(1, len(target) + 1) if i == len(target) or target[i] != target[i - 1]]
    parts, before = [], ""
    for end in ends:
        # Decode from the start each time, because some tokenizers drop a space at the start of a text. If the bytes of
        # a character are on both sides of an end (U+FFFD until it is whole), the character belongs to the next part.
        text = str(tokenizer.decode(encoded.input_ids[:end].tolist(), clean_up_tokenization_spaces=False))
        text = text if end == len(target) else text.rstrip("\ufffd")
        parts.append((printable(text[len(before) :]), bool(target[end - 1])))
        before = text
    return parts


def printable(text: str) -> str:
    """Escape control characters, except tab and newline, so that the text cannot control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def pool_summary(config: InspectConfig, encoder: Encoder, statistics: PoolStatistics) -> dict[str, Any]:
    """Return the statistics of the whole pool, by the label that the command prints."""
    from ...lm.templates.clock import date_of, reads_clock

    whole = statistics.whole
    values = {"pool": config.pool, "model": config.model, "max_length": config.max_length}
    if reads_clock(encoder.tokenizer.chat_template):
        values["date"] = f"{date_of(encoder.tokenizer)}, which the chat template writes"
    values |= {"trained on": mask_method(config, encoder), **whole.totals()}
    if statistics.routes:
        values["conversations"] = _routes(statistics)
    if statistics.answers:
        values["answers that are samples"] = statistics.answers
    lengths = {"before the cut": whole.before, "trained on": whole.trained}
    values["tokens per sample"] = [{"": label, **percentiles(counts)} for label, counts in lengths.items() if counts]
    distinct = len({sample_id for ids in statistics.rejected.values() for sample_id in ids})
    if distinct < whole.rejected:
        values["rejected samples"] = distinct
    if statistics.rejected:
        values["rejected, by reason"] = {
            reason: f"{ids.total()}, such as {', '.join(list(ids)[:NAMED])}"
            for reason, ids in statistics.rejected.items()
        }
    if len(statistics.by_source) > 1:
        values["by source"] = [{"source": source, **counts.totals()} for source, counts in statistics.by_source.items()]
    return values


def _routes(statistics: PoolStatistics) -> dict[str, str]:
    """Return how many conversations are whole or split into answers, and why, by the label that the command prints."""
    labels = {"whole": "whole", "expand": "split into answers"}
    return {f"{count} {labels[kind]}": cell(reason) for (kind, reason), count in sorted(statistics.routes.items())}


def mask_method(config: InspectConfig, encoder: Encoder) -> str:
    """Return in words how the encoder found the tokens that the loss trains on."""
    if config.loss_on == "all":
        return "all tokens"
    if encoder.has_generation_marks:
        return "assistant tokens, by the generation tags of the chat template"
    return "assistant tokens, by prefixes: the chat template has no generation tags"


def percentiles(counts: list[int]) -> dict[str, int]:
    """Return the percentiles of the lengths. Each percentile is the length of some sample (no interpolation)."""
    import numpy as np

    values = np.percentile(counts, PERCENTILES, method="inverted_cdf").tolist()
    names = ["max" if percent == 100 else f"p{percent}" for percent in PERCENTILES]
    return dict(zip(names, map(int, values), strict=True))
