"""A shard of an evaluation: what a model makes of a fixed block of a pool's rows, a row a sample and metric."""

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
LONG = "longer than --max-length"
NO_ANSWER = "no assistant turn at the end"
NOT_FINITE = "loss not finite"


def _nobody(count: int) -> None:
    """Takes how much is done and shows it to nobody, where something else moves the progress bar."""


@dataclass
class EvaluatedSample:
    """A sample while it is looked at: its outcomes are rows of `answers`."""

    position: int
    sample: Sample
    loss: float | None = None
    target_tokens: int | None = None
    refused: list[str] = dataclasses.field(default_factory=list)

    @property
    def prediction(self) -> str:
        """What the assistant says last."""
        return str(self.sample.messages[-1].get("content") or "")

    def refuse(self, reason: str) -> None:
        """Note why something cannot be had of it: once, whichever metric asks."""
        if reason not in self.refused:
            self.refused.append(reason)

    def answered_with(self, text: str) -> Sample:
        """The same conversation with another answer at its end."""
        messages = [*self.sample.messages[:-1], {"role": "assistant", "content": text}]
        return Sample(messages=messages, tools=self.sample.tools)


class Evaluator:
    """Makes shards."""

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
        self.assistant = Encoder(tokenizer, max_length=config.max_length)
        self.scoring_model = verify_head(make_scoring_model(model))
        self.budget = ScoreBudget(tokens=config.score_batch_tokens, texts=config.score_batch_size)

    @functools.cached_property
    def generator(self) -> Generator:
        """Answers, for metrics that want them generated."""
        from ...lm.evaluation.generate import Generator

        config = self.work.config
        return Generator(
            self.scoring_model.model,
            self.encoder.tokenizer,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.generate_batch_size,
        )

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Write a shard's outcomes as facts, then as the artifact's own rows, which say that it is made."""
        import pyarrow as pa

        timer, rows = Stopwatch(), self.work.rows(task)
        read = samples_between(self.pool, rows.start, rows.stop, originals=True)
        samples = [EvaluatedSample(position, sample) for position, sample in read]
        generated = [metric for metric in self.work.config.metric if metric in RULES]
        with timer.part("loss"):
            outcomes = list(self._losses(samples, _nobody if generated else advance))
        if generated:
            with timer.part("generation"):
                outcomes += self._generated(samples, generated, advance)
        if CHOICE in self.work.config.metric:
            with timer.part("choices"):
                outcomes += self._chosen(samples)
        draft, key, table = self.work.draft, f"{task:05d}", pa.Table.from_pylist(outcomes, schema=schema())
        draft.add("answers", table, key=key)
        rejects = [{"sample_id": p.sample.sample_id, "reason": reason} for p in samples for reason in p.refused]
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
                evaluated.refuse(error.reason)
                continue
            if row.reject_reason:
                evaluated.refuse(row.reject_reason)
            else:
                rows.append((evaluated, row))
        advance(len(samples) - len(rows))
        losses = losses_of(self.scoring_model, [row_of(row) for _, row in rows], self.budget, advance=advance)
        for (evaluated, row), loss in zip(rows, losses.tolist(), strict=True):
            if math.isnan(loss):
                evaluated.refuse(NOT_FINITE)
                continue
            evaluated.loss, evaluated.target_tokens = loss, row.target_tokens
            yield self._outcome(evaluated, LOSS)

    def _generated(
        self, samples: Sequence[EvaluatedSample], metrics: Sequence[str], advance: Advance
    ) -> Iterator[dict[str, Any]]:
        from ...lm.tokens.encode import MaskError

        asked: list[tuple[EvaluatedSample, Any]] = []
        for evaluated in samples:
            if not self._ends_with_answer(evaluated):
                continue
            try:
                prompt = self.encoder.prompt(evaluated.sample)
            except MaskError as error:
                evaluated.refuse(error.reason)
                continue
            if self.generator.has_room(prompt):
                asked.append((evaluated, prompt))
            else:
                evaluated.refuse(NO_ROOM)
        advance(len(samples) - len(asked))
        answers = self.generator([prompt for _, prompt in asked], advance=advance)
        for (evaluated, _), answer in zip(asked, answers, strict=True):
            for metric in metrics:
                try:
                    reference = self._reference(evaluated)
                    yield self._outcome(evaluated, metric, answer, reference, RULES[metric](answer, reference))
                except NotScorable as reason:
                    evaluated.refuse(str(reason))

    def _reference(self, evaluated: EvaluatedSample) -> str:
        column = self.work.config.answer_column
        if column is None:
            return evaluated.prediction
        if evaluated.sample.original.get(column) is None:
            raise NotScorable(f"nothing in column {column}")
        return str(evaluated.sample.original[column])

    def _chosen(self, samples: Sequence[EvaluatedSample]) -> Iterator[dict[str, Any]]:
        from ...lm.evaluation.losses import last_turn, losses_of, row_of
        from ...lm.tokens.encode import MaskError

        asked: list[tuple[EvaluatedSample, Choices, list[Encoded]]] = []
        for evaluated in samples:
            if not self._ends_with_answer(evaluated):
                continue
            try:
                choices = self._choices(evaluated)
                rows = [last_turn(self.assistant(evaluated.answered_with(text))) for text in choices.answers]
            except NotScorable as reason:
                evaluated.refuse(str(reason))
                continue
            except MaskError as error:
                evaluated.refuse(error.reason)
                continue
            if any(row.truncated or not row.target_tokens for row in rows):
                evaluated.refuse(LONG)
            else:
                asked.append((evaluated, choices, rows))
        flat = [row for _, _, rows in asked for row in rows]
        losses = iter(
            losses_of(self.scoring_model, [row_of(row) for row in flat], self.budget, advance=_nobody).tolist()
        )
        for evaluated, choices, rows in asked:
            each = [next(losses) for _ in rows]
            if any(map(math.isnan, each)):
                evaluated.refuse(NOT_FINITE)
                continue
            sums = [loss * row.target_tokens for loss, row in zip(each, rows, strict=True)]
            for metric, costs in ((CHOICE, sums), (CHOICE_NORM, each)):
                best = min(range(len(costs)), key=costs.__getitem__)
                answer, right = choices.answers[best], choices.answers[choices.right]
                yield self._outcome(evaluated, metric, answer, right, best == choices.right)

    def _choices(self, evaluated: EvaluatedSample) -> Choices:
        config = self.work.config
        return Choices.of(
            evaluated.sample.original,
            evaluated.prediction,
            choices=config.choices_column,
            answer=config.answer_column or ANSWER,
        )

    def _ends_with_answer(self, evaluated: EvaluatedSample) -> bool:
        messages = evaluated.sample.messages
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            return True
        evaluated.refuse(NO_ANSWER)
        return False

    def _outcome(
        self,
        evaluated: EvaluatedSample,
        metric: str,
        prediction: str | None = None,
        reference: str | None = None,
        correct: bool | None = None,
    ) -> dict[str, Any]:
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
    """A model's evaluation on a pool, shard by shard."""

    def open(self) -> Worker[int]:
        """Load the model, on the current device."""

        return Evaluator(self)
