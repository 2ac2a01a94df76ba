"""Measure the samples of a pool shard by shard: those that no earlier features have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...executors.work import Advance
from ...log import Stopwatch
from ...samples import Sample
from ..pools import samples_between
from ..tokens.tokenization import TokenizationReport, make_encoder
from ..tokens.turns import Expansion
from .before import Before
from .columns import QUANTILES, VECTORS, Ints, Lengths, numbers_of, records_of, vectors_of
from .config import EmbedConfig
from .earlier import Earlier

if TYPE_CHECKING:
    from torch import Tensor

    from ...lm.model.scoring_model import ScoringModel
    from ...lm.tokens.token_table import TokenTable
    from ...signals import Signal
    from .measuring import Measuring

SORTED = 512
"""Number of texts that are sorted by length together. More means less padding; their tokens are in memory at once."""


class Embedder:
    """Worker that measures and writes shards.

    Attributes:
        earlier: what earlier features have; set before the first shard.
        before: the losses of `--before`; set before the first shard.
    """

    earlier: Earlier
    before: Before | None = None

    def __init__(self, work: Measuring) -> None:
        import torch

        from ...lm.input_limits import InputLimits
        from ...lm.model.load import load_model, load_tokenizer
        from ...lm.model.row_proof import with_packing
        from ...lm.model.scoring_batch import default_score_tokens
        from ...lm.model.scoring_model import make_scoring_model, verify_head
        from ...lm.tokens.alone import answer_beginning
        from ...store.rows.pool_rows import PoolRows

        config = work.config
        options = config.options(work.model_location)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.work = work
        self.pool = PoolRows(work.pool.shards())
        self.encoder = make_encoder(config, load_tokenizer(options))
        self.scoring_model = with_packing(
            verify_head(
                make_scoring_model(load_model(options).to(device), autocast=torch.bfloat16 if config.bf16 else None)
            ),
            config.max_length,
        )
        self.limits = InputLimits.of(self.scoring_model.model)
        self.signals, self.no_values = signals_of(config, self.scoring_model)
        self.beginning = answer_beginning(self.encoder.tokenizer) if "ifd" in config.signals else None
        self.tokens = config.score_batch_tokens or default_score_tokens(
            self.scoring_model.model, self.scoring_model.head.weight.device, max_length=config.max_length
        )

    def __call__(self, task: int, advance: Advance) -> Mapping[str, float]:
        """Measure shard `task`. Write its records first and its vectors last: they mark the shard as finished."""
        table, passed, rejected, expansion = self._read(task)
        found = self.earlier.rows(table.ids)
        new = np.flatnonzero(found < 0)
        ends = _ends(table)
        advance(self.work.size(task) - int(ends[new].sum()))
        self.limits.require_table(table, f"The pool '{self.work.pool.name}'")
        timer = Stopwatch()
        values = self._measure(table, new, timer, advance) if len(new) else self.no_values
        ids = table.id_array.take(pa.array(new))
        lengths = Lengths(table.lengths[new], table.target_tokens[new], table.truncated[new])
        records, vectors = records_of(ids, lengths, values), vectors_of(ids, values)
        order = np.argsort(np.concatenate([table.positions, list(passed)]), kind="stable")
        known = np.concatenate([found, self.earlier.rows(list(passed.values()))])[order]
        if len(new) < len(known):
            records, vectors = self.earlier.joined(known, records, vectors)
        if self.before is not None:
            records = self.before.joined(records)
        draft, key = self.work.draft, f"{task:05d}"
        draft.add("features", records, key=key)
        draft.reject(rejected, key=key)
        expansion.record(draft, key)
        draft.write(task, vectors)
        return timer.seconds

    def _read(self, shard: int) -> tuple[TokenTable, dict[int, str], dict[str, str], Expansion]:
        """Tokenize the samples of a shard, except those that earlier features have for certain.

        Returns:
            The table; the samples that were passed over, position -> sample id; the rejected ones, sample id -> reason;
            and the expansion.
        """
        from ...lm.tokens.encode import encode_all
        from ...lm.tokens.token_table import TokenTable
        from ...store.rows.pool_rows import read_repeats

        rows, rejected = self.work.rows(shard), dict[str, str]()
        repeats = read_repeats(self.work.repeats, rows.start, rows.stop)
        samples = samples_between(self.pool, rows.start, rows.stop)
        passed: dict[int, str] = {}
        first = ((position, sample) for position, sample in samples if position not in repeats)
        expansion = Expansion(self.encoder)
        table = TokenTable(encode_all(expansion(self._unknown(first, passed)), self.encoder, rejected), expansion.turns)
        if rejected and self.work.config.strict:
            report = TokenizationReport(self.work.pool.name)
            report.reject(rejected)
            report.log_or_raise(strict=True)
        return table, passed, rejected, expansion

    def _unknown(self, samples: Iterable[tuple[int, Sample]], passed: dict[int, str]) -> Iterator[tuple[int, Sample]]:
        """Yield the samples that must be tokenized, and put the others into `passed`.

        A conversation that is never split is one text here and in earlier features with any `turns`.
        """
        config = self.work.config
        never = config.turns == "whole" or config.loss_on == "all"
        for position, sample in samples:
            whole = never or sum(message["role"] == "assistant" for message in sample.messages) <= 1
            if whole and sample.sample_id in self.earlier.row_of:
                passed[position] = sample.sample_id
            else:
                yield position, sample

    def _measure(self, table: TokenTable, new: Ints, timer: Stopwatch, advance: Advance) -> dict[str, Tensor]:
        """Measure rows of a shard, by column. Batches depend on these rows only, not on earlier shards."""
        import torch

        parts: dict[str, list[Tensor]] = {}
        ends = _ends(table)
        for start in range(0, len(new), SORTED):
            rows = new[start : start + SORTED]
            texts = [table[row] for row in rows.tolist()]
            values = self._pass(texts, self.signals, timer)
            if self.beginning is not None:
                values["loss_without_prompt"] = self._without_prompts(texts, self.beginning, timer)
            for name, value in as_columns(values).items():
                parts.setdefault(name, []).append(value)
            advance(int(ends[rows].sum()))
        return {name: torch.cat(values) for name, values in parts.items()}

    def _pass(
        self, texts: Sequence[Mapping[str, Any]], signals: Mapping[str, Signal], timer: Stopwatch
    ) -> dict[str, Tensor]:
        """Measure signals of texts, on the CPU."""
        from ...lm.tokens.batch import collate
        from ...signals import ScoreBudget, measure

        scoring_model = self.scoring_model
        with scoring_model.eval_mode():
            values = measure(
                scoring_model.hidden,
                scoring_model.head,
                collate(texts, pad_token_id=0),
                signals,
                ScoreBudget(tokens=self.tokens, texts=self.work.config.score_batch_size),
                timer=timer,
                shared=scoring_model.shares,
            )
        return {name: value.cpu() for name, value in values.items()}

    def _without_prompts(self, texts: Sequence[Mapping[str, Any]], beginning: Ints, timer: Stopwatch) -> Tensor:
        """Return the mean loss of the answers' tokens without what is before them, (n,); NaN where there is no prompt.

        Answers that are the same, of several texts, are measured once.
        """
        import torch

        from ...lm.tokens.alone import answers_alone
        from ...signals import Loss

        answers = [answers_alone(text, beginning) for text in texts]
        place = {answer["input_ids"].tobytes(): answer for several in answers for answer in several}
        if not place:
            return torch.full((len(texts),), torch.nan)
        losses = self._pass(list(place.values()), {"loss": Loss()}, timer)["loss"].double()
        loss_of = dict(zip(place, losses.tolist(), strict=True))
        means = []
        for several in answers:
            counts = [len(answer["input_ids"]) - len(beginning) for answer in several]
            total = sum(loss_of[a["input_ids"].tobytes()] * n for a, n in zip(several, counts, strict=True))
            means.append(total / sum(counts) if counts else torch.nan)
        return torch.tensor(means, dtype=torch.float64)


def _ends(table: TokenTable) -> npt.NDArray[np.bool_]:
    """Return (n,) True for the last sample of each row of the pool: progress counts rows, which may have answers."""
    return np.append(np.diff(table.positions) != 0, True)[: len(table)]


def signals_of(config: EmbedConfig, scoring_model: ScoringModel) -> tuple[dict[str, Signal], dict[str, Tensor]]:
    """Return the signals of the first pass by name, and the values of an empty batch for all that is recorded."""
    import torch

    from ...numerics.srft import TwoSided
    from ...signals import Entropy, Loss, LossQuantiles, MeanHidden, Sketch, Surprise, Utility, WeightedMeanHidden

    srft = TwoSided.draw(
        d1=config.d1,
        d2=config.d2,
        max_length=config.max_length,
        vocab_size=scoring_model.head.vocab_size,
        seed=config.seed,
    )
    known: dict[str, Signal] = {
        "entropy": Entropy(),
        "loss": Loss(),
        "surprise": Surprise(),
        "quantiles": LossQuantiles(tuple(QUANTILES.values())),
        "utility": Utility(),
        "sketch": Sketch(srft),
        "embedding": MeanHidden(),
        "weighted_embedding": WeightedMeanHidden(),
    }
    wanted = {*config.signals, *(["loss"] if "ifd" in config.signals else [])}
    widths = dict.fromkeys(VECTORS, scoring_model.head.weight.shape[1]) | {"sketch": srft.size}
    nothing = {name: torch.zeros(0) for name in numbers_of(config.signals)}
    nothing |= {name: torch.zeros(0, widths[name]) for name in VECTORS if name in wanted}
    return {name: signal for name, signal in known.items() if name in wanted}, nothing


def as_columns(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return values of signals by the names of their columns; vectors keep the name of their signal."""
    found = dict(values)
    if "quantiles" in found:
        found |= dict(zip(QUANTILES, found.pop("quantiles").T, strict=True))
    if "sketch" in found:
        found["sketch_norm"] = found["sketch"].double().norm(dim=1)
    if "loss_without_prompt" in found:
        ratio = found["loss"].double() / found["loss_without_prompt"].double()
        found["ifd"] = ratio.where(ratio.isfinite(), float("nan"))
    return found
