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
from .answer_checks import RULES, Choices, NotScorable
from .results import ANSWER, CHOICE, CHOICE_NORM, LOSS, schema

if TYPE_CHECKING:
    from ...lm.evaluation.generate import Generator
    from ...lm.tokens.encode import Encoded
    from .config import EvaluateConfig  # noqa: F401  named in a base class


NO_ROOM = "no room for prompt and answer"
TOO_LONG = "longer than --max-length"
NO_ANSWER = "no assistant turn at the end"
NOT_FINITE = "loss not finite"


def _ignore_progress(count: int) -> None:
    """Ignore the number of finished samples, while another part of the evaluation moves the progress bar."""


@dataclass
class EvaluatedSample:
    """A sample during its evaluation.

    Attributes:
        position: position of the sample in the pool.
        sample: the sample.
        loss: mean loss over its target tokens; None until it is measured, or if it cannot be.
        target_tokens: number of tokens that the loss is over.
        reject_reasons: reasons why a metric could not be measured.
    """

    position: int
    sample: Sample
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
        return Sample(messages=messages, tools=self.sample.tools)


class Evaluator:
    """Evaluate shards with one loaded model. A call evaluates one shard and writes it.

    Args:
        work: the evaluation that the shards are part of.
    """

    def __init__(self, work: EvaluationPass) -> None:
        import torch

        from ...lm.model.load import load_model, load_tokenizer
        from ...lm.model.scoring_model import make_scoring_model, verify_head
        from ...lm.tokens.encode import Encoder
        from ...signals import ScoreBudget
        from ...store.rows.pool_rows import PoolRows

        config = work.config
        options = config.options(work.model_location)
        tokenizer = load_tokenizer(options)
        model = load_model(options).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.work = work
        self.pool = PoolRows(work.pool.shards())
        self.encoder = Encoder(tokenizer, max_length=config.max_length, loss_on=config.loss_on)
        self.assistant_encoder = Encoder(tokenizer, max_length=config.max_length)  # loss on the assistant's tokens only
        self.scoring_model = verify_head(make_scoring_model(model))
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
        samples = [EvaluatedSample(position, sample) for position, sample in read]
        generated_metrics = [metric for metric in self.work.config.metric if metric in RULES]
        with timer.part("loss"):
            answers = list(self._losses(samples, _ignore_progress if generated_metrics else advance))
        if generated_metrics:
            with timer.part("generation"):
                answers += self._generated_answers(samples, generated_metrics, advance)
        if CHOICE in self.work.config.metric:
            with timer.part("choices"):
                answers += self._most_likely_choices(samples)
        draft, key, table = self.work.draft, f"{task:05d}", pa.Table.from_pylist(answers, schema=schema())
        draft.add("answers", table, key=key)
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
        from ...lm.evaluation.losses import losses_of, row_of
        from ...lm.tokens.encode import MaskError

        rows: list[tuple[EvaluatedSample, Encoded]] = []
        for evaluated in samples:
            try:
                row = self.encoder(evaluated.sample)
            except MaskError as error:
                evaluated.reject(error.reason)
                continue
            if row.reject_reason:
                evaluated.reject(row.reject_reason)
            else:
                rows.append((evaluated, row))
        advance(len(samples) - len(rows))
        losses = losses_of(self.scoring_model, [row_of(row) for _, row in rows], self.budget, advance=advance)
        for (evaluated, row), loss in zip(rows, losses.tolist(), strict=True):
            if math.isnan(loss):
                evaluated.reject(NOT_FINITE)
                continue
            evaluated.loss, evaluated.target_tokens = loss, row.target_tokens
            yield self._record(evaluated, LOSS)

    def _generated_answers(
        self, samples: Sequence[EvaluatedSample], metrics: Sequence[str], advance: Advance
    ) -> Iterator[dict[str, Any]]:
        from ...lm.tokens.encode import MaskError

        prompts: list[tuple[EvaluatedSample, Any]] = []
        for evaluated in samples:
            if not self._ends_with_answer(evaluated):
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
            if not self._ends_with_answer(evaluated):
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

    def _ends_with_answer(self, evaluated: EvaluatedSample) -> bool:
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


class EvaluationPass(ShardedPass["EvaluateConfig"]):
    """The evaluation of a model on a pool, shard by shard."""

    def open(self) -> Worker[int]:
        """Load the model on the current device, and return the worker that evaluates shards with it."""
        return Evaluator(self)
