"""`curate select`: select a subset of a pool before training, from stored features or with a budget of gradients.

The pool selector gets candidates, target and an oracle that computes gradient scores on request (gradient_scores.py).
The subset is written in order, as the artifact's data and as records of the table `subsets`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ... import plugins
from ...errors import DataError
from ...log import LOGGER
from ...pool_selectors import (
    Candidates,
    Measure,
    Oracle,
    PoolSelector,
    Ranking,
    RemainingBudget,
)
from ...pool_selectors.candidates import Ints
from ...samples import Sample
from ...store import Draft
from ..inputs import Inputs
from ..pools import samples_of
from ..stage import NOT_MEASURED, Stage
from ..subsets import draws_table, subset_table
from ..tokens.turns import Answers, have_several_answers, record_answers
from .candidates import answers_of_features, read_candidates, read_target, text_of
from .config import SelectConfig

SHOWN = 5
SHOWN_CHARACTERS = 60

EXAMPLES = """\
curate select --method random --pool pool --budget 0.05 --name random
curate select --method k_center --pool pool --features feats --on sketch --budget 500 --name spread
curate select --method facility_location --pool pool --features feats --budget 0.05 --name representative
curate select --method d2 --pool pool --features feats --budget 0.05 --name varied
curate select --method rds --pool pool --features feats --target-features target-feats --budget 0.05 --name alike
curate select --method column --set method_args.column=ifd --pool pool --features feats --budget 0.05 --name hard
curate select --method less --pool pool --target heldout --warmup run --budget 0.05 --name subset
curate select --method cluster_ucb --pool pool --target heldout --warmup run --clusters clusters --budget 0.05 --name s2
torchrun --nproc-per-node 8 -m curate select --method less --pool pool --target heldout --warmup run --budget 9 --name s
curate select --method less --pool pool --target heldout --warmup run --budget 0.05 --engine ray --name s4
curate train --pool pool --subset subset --selector full --model M --name tuned"""


def run(config: SelectConfig, inputs: Inputs, draft: Draft) -> None:
    """Select the subset and write it, with every request to the oracle.

    With several processes, each ranks the same candidates and computes its share of the requested gradients.
    """
    selector = config.selector()
    by_gradients = "rewards" in selector.needs
    if draft.rank and not by_gradients:
        return
    answers = answers_of_features(inputs)
    if answers is None:
        answers = answers_of_warmup(config, inputs) if by_gradients else {}
    candidates, positions = read_candidates(inputs, selector.needs, config.on, answers, column=selector.column)
    target = read_target(inputs, selector.needs, config.on)
    remaining = RemainingBudget(config.limits(), candidates)
    oracle = Oracle(lambda rows: np.full(len(rows), np.nan), limit=0)
    with config.session():
        if by_gradients:
            limit = math.floor(config.gradient_budget * len(candidates)) if selector.frugal else len(candidates)
            oracle = Oracle(gradient_oracle(config, inputs, candidates.ids), limit)
        with plugins.calls_into(type(selector), "rank"):
            ranking = selector.rank(candidates, target, oracle, remaining)
    if not len(ranking.rows):
        raise DataError(
            f"Method '{config.method}' selected no sample: raise --budget, or check that the samples have what the "
            "method needs (finite gradients or vectors, clusters, numbers within the bounds)."
        )
    if draft.rank:
        return
    if remaining.size is not None and len(ranking.rows) < remaining.size:
        LOGGER.warning(f"The budget is {remaining.size} samples, but only {len(ranking.rows)} could be selected.")
    _write(draft, candidates, positions, ranking, selector)
    named = {candidates.ids[row] for row in [*ranking.rows, *(ranking.draws.rows if ranking.draws is not None else ())]}
    record_answers(draft, {sample_id: origin for sample_id, origin in answers.items() if sample_id in named})
    draft.summary = _summary(config, inputs, candidates, ranking, oracle, answers)


def gradient_oracle(config: SelectConfig, inputs: Inputs, candidates: Sequence[str]) -> Measure:
    """Return the function that computes the LESS scores of candidates.

    Args:
        config: configuration of the selection.
        inputs: the pool, the target and the warm-up run.
        candidates: sample id of each candidate.
    """
    from .gradient_scores import oracle

    return oracle(config, inputs, candidates)


def answers_of_warmup(config: SelectConfig, inputs: Inputs) -> Answers:
    """Return the answers of the pool that the warm-up run would read as samples of their own."""
    from .warmup_samples import answers_of_pool

    return answers_of_pool(config, inputs) if have_several_answers([inputs.artifacts["pool"]]) else {}


def _write(draft: Draft, candidates: Candidates, positions: Ints, ranking: Ranking, selector: PoolSelector) -> None:
    subset = subset_table(ranking, candidates)
    draft.write(0, subset)
    draft.add("subsets", subset)
    draft.rows = len(subset)
    if ranking.draws is not None:
        draft.add("draws", draws_table(ranking.draws, candidates, positions))
    if ranking.rejected is not None:
        draft.reject(dict.fromkeys([candidates.ids[row] for row in ranking.rejected], selector.reject_reason))


def _summary(
    config: SelectConfig, inputs: Inputs, candidates: Candidates, ranking: Ranking, oracle: Oracle, answers: Answers
) -> dict[str, Any]:
    rows, scores = ranking.rows, ranking.scores[np.isfinite(ranking.scores)]
    summary: dict[str, Any] = {"method": config.method, "selected": f"{len(rows)} of {len(candidates)} samples"}
    if candidates.tokens is not None:
        summary["tokens"] = f"{candidates.tokens[rows].sum()} of {candidates.tokens.sum()}"
    if oracle.spent:
        summary["gradients"] = f"{oracle.spent} of {oracle.limit}"
    warmup = inputs.artifacts.get("warmup")
    if oracle.spent and warmup is not None and warmup.config.get("gradient_coverage") == "linear":
        summary[NOT_MEASURED] = "those outside linear layers and experts, as in the warm-up run"
    summary["scores"] = f"{scores.min():.4g} to {scores.max():.4g}" if len(scores) else None
    rejected = ranking.rejected if ranking.rejected is not None else np.zeros(0, np.int64)
    summary["rejected"] = len(rejected)
    if len(rejected):
        summary["rejected_first"] = [candidates.ids[row] for row in rejected[:SHOWN]]
    summary |= ranking.notes
    summary["sources"] = dict(Counter(candidates.sources[row] for row in rows).most_common())
    first = [candidates.ids[row] for row in rows[:SHOWN]]
    origins = [answers.get(sample_id, (sample_id, None)) for sample_id in first]
    found = samples_of(inputs.artifacts["pool"], [conversation for conversation, _ in origins])
    texts = [_start(_text(found[conversation], turn)) for conversation, turn in origins]
    summary["first"] = [
        {"rank": rank, "score": float(score) if np.isfinite(score) else None, "text": text}
        for rank, (text, score) in enumerate(zip(texts, ranking.scores, strict=False))
    ]
    return summary


def _text(conversation: Sample, turn: int | None) -> str:
    """Return the text of a conversation, or of one of its answers."""
    return text_of(conversation if turn is None else replace(conversation, messages=[conversation.messages[turn]]))


def _start(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


STAGE = Stage(SelectConfig, run, EXAMPLES, distributed=True)
