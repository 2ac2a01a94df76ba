"""Evaluate a model on one shard of a pool: a fixed block of the pool's rows.

Each sample gets one record of the table `answers` for its loss, and one for every metric. A sample that a metric cannot
measure gets a record of the table `rejects` with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...executors.pool_pass import ShardedPass
from ...executors.work import Advance, Worker
from ...log import Stopwatch
from ...samples import Sample
from ..pools import samples_between
from ..tokens.tokenization import make_encoder
from ..tokens.turns import Expansion
from .answer_checks import RULES, Choices, NotScorable
from .chosen import Chosen
from .results import ANSWER, CHOICE, CHOICE_NORM, LOSS, schema

if TYPE_CHECKING:
    from ...lm.evaluation.generate import Generator
    from ...lm.tokens.encode import Encoded
    from .config import EvaluateConfig  # noqa: F401  named in a base class


NO_ROOM = "no room for prompt and answer"
TOO_LONG = "longer than --max-length"
NO_ANSWER = "no assistant turn at the end"
NOT_FINITE = "loss not finite"


def _evaluated(position: int, sample: Sample, parts: Sequence[Sample]) -> list[EvaluatedSample]:
    """Return the samples of one row of the pool: a conversation, or its answers."""
    turns = len(sample.messages)
    return [EvaluatedSample(position, part, len(part.messages) == turns, part is parts[-1]) for part in parts]


def _in_rows(advance: Advance, rows: int, samples: int) -> Advance:
    """Return a function that takes numbers of finished samples, and advances by their share of the rows."""
    finished = 0

    def count(more: int) -> None:
        nonlocal finished
        before, finished = finished, finished + more
        if samples:
            advance(finished * rows // samples - before * rows // samples)

    return count


def _ignore_progress(count: int) -> None:
    """Ignore the number of finished samples, while another part of the evaluation moves the progress bar."""


@dataclass
class EvaluatedSample:
    """A sample during its evaluation.

    Attributes:
        position: position of the sample in the pool.
        sample: the sample: a conversation, or one of its answers.
        ends: True if the sample has all messages of its row, so that what a column of the row says holds for it.
        last: True if the sample is the last one of its row.
        loss: mean loss over its target tokens; None until it is measured, or if it cannot be.
        target_tokens: number of tokens that the loss is over.
        reject_reasons: reasons why a metric could not be measured.
    """

    position: int
    sample: Sample
    ends: bool = True
    last: bool = True
    loss: float | None = None
    target_tokens: int | None = None
    reject_reasons: list[str] = dataclasses.field(default_factory=list)

    @property
    def assistant_text(self) -> str:
        """The content of the last message."""
        return str(self.sample.messages[-1].get("content") or "")

    def reject(self, reason: str) -> None:
        """Record why a metric could not be measured; a reason that several metrics share is recorded once."""
        if reason not in self.reject_reasons:
            self.reject_reasons.append(reason)

    def answered_with(self, text: str) -> Sample:
        """Return the same conversation with another answer as its last message."""
        messages = [*self.sample.messages[:-1], {"role": "assistant", "content": text}]
        return Sample(messages=messages, tools=self.sample.tools, answer=self.sample.answer)


class Evaluator:
    """Evaluate shards with one loaded model. A call evaluates one shard and writes it.

    Args:
        work: the evaluation that the shards are part of.
    """

    def __init__(self, work: EvaluationPass) -> None:
        import torch

        from ...lm.model.load import load_model, load_tokenizer
        from ...lm.model.row_proof import with_packing
        from ...lm.model.scoring_model import make_scoring_model, verify_head
        from ...signals import ScoreBudget
        from ...store.rows.pool_rows import PoolRows

        config = work.config
        options = config.options(work.model_location)
        tokenizer = load_tokenizer(options)
        model = load_model(options).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.work = work
        self.pool = PoolRows(work.pool.shards())
        self.encoder = make_encoder(config, tokenizer)
        self.assistant_encoder = make_encoder(config, tokenizer, loss_on="assistant")
        self.scoring_model = with_packing(verify_head(make_scoring_model(model)), config.max_length)
        self.budget = ScoreBudget(tokens=config.score_batch_tokens, texts=config.score_batch_size)

    @functools.cached_property
    def generator(self) -> Generator:
        """The generator of answers, created for the first metric that needs it."""
        from ...lm.evaluation.generate import Generator

        config = self.work.config
        return Generator(
            self.scoring_model.model,
            self.encoder.tokenizer,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.generate_batch_size,
        )

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Evaluate a shard and write it: first its records, then its rows, whose file shows that the shard is finished.

        Args:
            task: number of the shard.
            advance: function that gets the number of samples that were finished since the last call.

        Returns:
            Seconds by part: loss, generation, choices.
        """
        import pyarrow as pa

        timer, rows = Stopwatch(), self.work.rows(task)
        read = samples_between(self.pool, rows.start, rows.stop, originals=True)
        expansion = Expansion(self.encoder)
        samples = [
            each
            for position, sample in read
            if self.work.chosen is None or sample.sample_id in self.work.chosen.conversations
            for each in _evaluated(position, sample, expansion.split(sample))
            if self.work.chosen is None or self.work.chosen.has(sample, each.sample)
        ]
        count = _in_rows(advance, len(rows), len(samples))
        generated_metrics = [metric for metric in self.work.config.metric if metric in RULES]
        with timer.part("loss"):
            answers = list(self._losses(samples, _ignore_progress if generated_metrics else count))
        if generated_metrics:
            with timer.part("generation"):
                answers += self._generated_answers(samples, generated_metrics, count)
        if CHOICE in self.work.config.metric:
            with timer.part("choices"):
                answers += self._most_likely_choices(samples)
        draft, key, table = self.work.draft, f"{task:05d}", pa.Table.from_pylist(answers, schema=schema())
        draft.add("answers", table, key=key)
        expansion.record(draft, key)
        rejects = [
            {"sample_id": evaluated.sample.sample_id, "reason": reason}
            for evaluated in samples
            for reason in evaluated.reject_reasons
        ]
        if rejects:
            draft.add("rejects", pa.Table.from_pylist(rejects), key=key)
        draft.write(task, table)
        return timer.seconds

    def _losses(self, samples: Sequence[EvaluatedSample], advance: Advance) -> Iterator[dict[str, Any]]:
        from ...lm.evaluation.losses import losses_of
        from ...lm.tokens.encode import MaskError
        from ...lm.tokens.token_table import TokenTable

        measured: list[EvaluatedSample] = []

        def encoded() -> Iterator[tuple[int, str, Encoded]]:
            for evaluated in samples:
                try:
                    row = self.encoder(evaluated.sample)
                except MaskError as error:
                    evaluated.reject(error.reason)
                    continue
                if row.reject_reason:
                    evaluated.reject(row.reject_reason)
                else:
                    measured.append(evaluated)
                    yield evaluated.position, evaluated.sample.sample_id, row

        table = TokenTable(encoded())
        advance(len(samples) - len(table))
        losses = losses_of(self.scoring_model, table, self.budget, advance=advance)
        for evaluated, loss, targets in zip(measured, losses.tolist(), table.target_tokens.tolist(), strict=True):
            if math.isnan(loss):
                evaluated.reject(NOT_FINITE)
                continue
            evaluated.loss, evaluated.target_tokens = loss, targets
            yield self._record(evaluated, LOSS)

    def _generated_answers(
        self, samples: Sequence[EvaluatedSample], metrics: Sequence[str], advance: Advance
    ) -> Iterator[dict[str, Any]]:
        from ...lm.tokens.encode import MaskError

        prompts: list[tuple[EvaluatedSample, Any]] = []
        for evaluated in samples:
            if not self._has_question(evaluated, by_column=self.work.config.answer_column is not None):
                continue
            try:
                prompt = self.encoder.prompt(evaluated.sample)
            except MaskError as error:
                evaluated.reject(error.reason)
                continue
            if self.generator.has_room(prompt):
                prompts.append((evaluated, prompt))
            else:
                evaluated.reject(NO_ROOM)
        advance(len(samples) - len(prompts))
        answers = self.generator([prompt for _, prompt in prompts], advance=advance)
        for (evaluated, _), answer in zip(prompts, answers, strict=True):
            for metric in metrics:
                try:
                    reference = self._reference(evaluated)
                    yield self._record(evaluated, metric, answer, reference, RULES[metric](answer, reference))
                except NotScorable as reason:
                    evaluated.reject(str(reason))

    def _reference(self, evaluated: EvaluatedSample) -> str:
        column = self.work.config.answer_column
        if column is None:
            return evaluated.assistant_text
        if evaluated.sample.original.get(column) is None:
            raise NotScorable(f"nothing in column {column}")
        return str(evaluated.sample.original[column])

    def _most_likely_choices(self, samples: Sequence[EvaluatedSample]) -> Iterator[dict[str, Any]]:
        from ...lm.evaluation.losses import last_turn, losses_of, row_of
        from ...lm.tokens.encode import MaskError

        questions: list[tuple[EvaluatedSample, Choices, list[Encoded]]] = []
        for evaluated in samples:
            if not self._has_question(evaluated, by_column=True):
                continue
            try:
                choices = self._choices(evaluated)
                rows = [last_turn(self.assistant_encoder(evaluated.answered_with(text))) for text in choices.answers]
            except NotScorable as reason:
                evaluated.reject(str(reason))
                continue
            except MaskError as error:
                evaluated.reject(error.reason)
                continue
            if any(row.truncated or not row.target_tokens for row in rows):
                evaluated.reject(TOO_LONG)
            else:
                questions.append((evaluated, choices, rows))
        texts = [row_of(row) for _, _, rows in questions for row in rows]
        losses = iter(losses_of(self.scoring_model, texts, self.budget, advance=_ignore_progress).tolist())
        for evaluated, choices, rows in questions:
            means = [next(losses) for _ in rows]
            if any(map(math.isnan, means)):
                evaluated.reject(NOT_FINITE)
                continue
            sums = [loss * row.target_tokens for loss, row in zip(means, rows, strict=True)]
            for metric, costs in ((CHOICE, sums), (CHOICE_NORM, means)):
                best = min(range(len(costs)), key=costs.__getitem__)
                answer, reference = choices.answers[best], choices.answers[choices.right]
                yield self._record(evaluated, metric, answer, reference, best == choices.right)

    def _choices(self, evaluated: EvaluatedSample) -> Choices:
        config = self.work.config
        return Choices.of(
            evaluated.sample.original,
            evaluated.assistant_text,
            choices=config.choices_column,
            answer=config.answer_column or ANSWER,
        )

    def _has_question(self, evaluated: EvaluatedSample, *, by_column: bool) -> bool:
        """Return whether a sample asks something; with `by_column`, whether a column of its row has the answer.

        A column speaks of the last answer of a conversation, so earlier ones are left out. A conversation without an
        answer at its end is rejected.
        """
        if by_column and not evaluated.ends:
            if evaluated.last:
                evaluated.reject(NO_ANSWER)
            return False
        messages = evaluated.sample.messages
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            return True
        evaluated.reject(NO_ANSWER)
        return False

    def _record(
        self,
        evaluated: EvaluatedSample,
        metric: str,
        prediction: str | None = None,
        reference: str | None = None,
        correct: bool | None = None,
    ) -> dict[str, Any]:
        """Return the record of a sample and metric in the table `answers`."""
        row = {**evaluated.sample.original, "source": evaluated.sample.source}
        values = {column: row.get(column) for column in self.work.config.by}
        return {
            "sample_id": evaluated.sample.sample_id,
            "position": evaluated.position,
            "task": self.work.pool.name,
            "metric": metric,
            "prediction": prediction,
            "reference": reference,
            "correct": correct,
            "loss": evaluated.loss,
            "target_tokens": evaluated.target_tokens,
            "slices": {column: None if value is None else str(value) for column, value in values.items()},
        }


@dataclass(frozen=True)
class EvaluationPass(ShardedPass["EvaluateConfig"]):
    """The evaluation of a model on a pool, shard by shard.

    Attributes:
        chosen: the samples that are measured; None for all.
    """

    chosen: Chosen | None = None

    def open(self) -> Worker[int]:
        """Load the model on the current device, and return the worker that evaluates shards with it."""
        return Evaluator(self)
