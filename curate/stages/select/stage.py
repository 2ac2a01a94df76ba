"""`curate select`: choose a subset of a pool before training, by what is stored of it or by a budget of gradients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from ...config import INERT, Config, Ref, flag_of
from ...errors import ConfigError, DataError
from ...executors.options import Spreading
from ...log import LOGGER
from ...pool_selectors import (
    Budget,
    Candidates,
    Draws,
    Measure,
    Oracle,
    PoolSelector,
    Ranking,
    Room,
    make_pool_selector,
    parse_quota,
)
from ...pool_selectors.base import Ints
from ...store import Draft
from ..export.stage import SUBSETS
from ..inputs import Inputs
from ..pools import samples_of
from .candidates import read_candidates, read_target, text_of

SHOWN = 5
SHOWN_CHARACTERS = 60

EXAMPLES = """\
curate select --method random --pool pool --budget 0.05 --name chance
curate select --method k_center --pool pool --features feats --on sketch --budget 500 --name spread
curate select --method rds --pool pool --features feats --target-features wanted --budget 0.05 --name alike
curate select --method less --pool pool --target heldout --warmup run --budget 0.05 --name subset
curate select --method cluster_ucb --pool pool --target heldout --warmup run --clusters clusters --budget 0.05 --name s2
torchrun --nproc-per-node 8 -m curate select --method less --pool pool --target heldout --warmup run --budget 9 --name s
curate select --method less --pool pool --target heldout --warmup run --budget 0.05 --engine ray --name s4
curate train --pool pool --subset subset --selector full --model M --name tuned"""

FIELDS = {
    "clusters": ("clusters",),
    "rewards": ("target", "warmup"),
    "target_texts": ("target",),
    "target_vectors": ("target_features",),
    "vectors": ("features",),
}
"""What a method needs -> the options that give it."""

MADE = {
    "clusters": "curate cluster --on embedding --k 50 makes it from features of the pool",
    "features": "curate embed makes it of the pool",
    "target": "a pool of samples to be good at, as curate ingest makes it",
    "target_features": "curate embed makes it of the target, with the options of the pool's features",
    "warmup": "a run of curate train, whose checkpoints give the gradients",
}


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ",".join(f"{source}={share}" for source, share in value.items())
    return str(value) if isinstance(value, (int, float)) else value


class SelectConfig(Spreading, Config):
    """What is chosen, by which method, and how much of it."""

    method: str = Field(description="less, cluster_ucb, rds, k_center, tfidf or random.")
    method_args: dict[str, Any] = Field({}, description="The method's own: --set method_args.beta=2.")
    pool: Ref = Field(description="The pool to choose from, as named at ingest.")
    target: Ref | None = Field(None, description="A pool of what to be good at; its rows may have a column subtask.")
    features: Ref | None = Field(
        None, description="Features of the pool: vectors for rds and k_center, lengths for all."
    )
    target_features: Ref | None = Field(None, description="Features of the target, for rds.")
    clusters: Ref | None = Field(
        None, description="A clustering of the pool, for cluster_ucb: best on embeddings, with k of 20 to 50."
    )
    warmup: Ref | None = Field(None, description="The run whose checkpoints give gradients, for less and cluster_ucb.")
    on: str = Field("embedding", description="Which vectors of the features: embedding, sketch, ...")
    budget: float | None = Field(None, description="A share of the pool's distinct samples (0.05), or how many (500).")
    budget_tokens: int | None = Field(None, description="Instead of --budget, how many tokens; wants --features.")
    gradient_budget: float = Field(0.2, gt=0, le=1, description="Of cluster_ucb: gradients, as a share of the pool.")
    per_source_quota: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="Greatest share of the subset that a source may have: 0.4, or alpaca=0.5,dolly=0.2."
    )
    eps_mode: Literal["adam", "less"] = Field(
        "adam", description="Adam's epsilon outside the root, with bias correction (adam), or as LESS published (less)."
    )
    sketch_dim: int = Field(8192, ge=8, description="Numbers that a gradient is sketched to.")
    sketch_seed: int = Field(0, description="Seed of that sketch.")
    feature_precision: Literal["fp16", "int8", "1bit"] = Field("fp16", description="Of kept gradient features.")
    score_batch_size: Annotated[int, INERT] = Field(16, ge=1, description="Texts in one backward pass.")
    seed: int = Field(0, description="Of what the method leaves to chance.")

    @model_validator(mode="after")
    def _fits(self) -> SelectConfig:
        needs, _ = self.selector().needs, self.limits()
        wanted = {field for need in needs for field in FIELDS.get(need, ())}
        allowed = wanted | {"features"} | ({"target"} if "target_features" in wanted else set())
        for field, made in MADE.items():
            flag = f"--{flag_of(field, type(self).model_fields[field])}"
            if field in wanted and getattr(self, field) is None:
                raise ConfigError(f"Method '{self.method}' needs {flag} NAME: {made}.")
            if field not in allowed and getattr(self, field) is not None:
                raise ConfigError(f"Method '{self.method}' makes no use of {flag}: leave it out.")
        if self.engine == "ray" and "rewards" not in needs:
            raise ConfigError(f"Method '{self.method}' computes no gradients to share out: leave --engine ray out.")
        return self

    def selector(self) -> PoolSelector:
        """The method, with its arguments checked."""
        return make_pool_selector(self.method, self.method_args, self.seed)

    def limits(self) -> Budget:
        """How much may be taken."""
        quota = parse_quota(self.per_source_quota) if self.per_source_quota else None
        return Budget(self.budget, self.budget_tokens, quota)


CONFIG = SelectConfig
DISTRIBUTED = True


def run(config: SelectConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the subset, in order, as the artifact's data and as facts; and what was asked of the oracle.

    Of several processes each ranks the same, and computes its share of the gradients that are asked for.
    """
    selector = config.selector()
    asks = "rewards" in selector.needs
    if draft.rank and not asks:
        return
    candidates, positions = read_candidates(inputs, selector.needs, config.on)
    target, target_positions = read_target(inputs, selector.needs, config.on)
    room = Room(config.limits(), candidates)
    oracle = Oracle(lambda rows: np.full(len(rows), np.nan), limit=0)
    with config.connected():
        if asks:
            limit = math.floor(config.gradient_budget * len(candidates)) if selector.frugal else len(candidates)
            oracle = Oracle(gradient_oracle(config, inputs, positions, target_positions), limit)
        ranking = selector.rank(candidates, target, oracle, room)
    if not len(ranking.rows):
        raise DataError(
            f"Method '{config.method}' finds no sample that it can take: the budget or the data is too little."
        )
    if draft.rank:
        return
    if room.size is not None and len(ranking.rows) < room.size:
        LOGGER.warning(f"The budget is {room.size} samples and only {len(ranking.rows)} could be taken.")
    _write(draft, candidates, positions, ranking, selector)
    draft.summary = _summary(config, inputs, candidates, ranking, oracle)


def gradient_oracle(config: SelectConfig, inputs: Inputs, pool_rows: Ints, target_rows: Ints) -> Measure:
    """What a candidate's gradient is worth to the target; `measure(i)` speaks of the sample in row `pool_rows[i]`."""
    from .gradient_scores import oracle

    return oracle(config, inputs, pool_rows, target_rows)


def _write(draft: Draft, candidates: Candidates, positions: Ints, ranking: Ranking, selector: PoolSelector) -> None:
    subset = subset_table(ranking, candidates)
    draft.write(0, subset)
    draft.add("subsets", subset)
    draft.rows = len(subset)
    if ranking.draws is not None:
        draft.add("draws", draws_table(ranking.draws, candidates, positions))
    if ranking.excluded is not None and len(ranking.excluded):
        names = [candidates.ids[row] for row in ranking.excluded]
        draft.add("rejects", pa.table({"sample_id": names, "reason": [selector.excludes] * len(names)}))


def subset_table(ranking: Ranking, candidates: Candidates) -> pa.Table:
    """What was taken, in order, as the catalogue has it."""
    columns = {
        "sample_id": [candidates.ids[row] for row in ranking.rows],
        "rank": range(len(ranking.rows)),
        "score": _known(ranking.scores),
        "weight": pa.nulls(len(ranking.rows), pa.float64()) if ranking.weights is None else _known(ranking.weights),
    }
    return pa.table(columns, schema=SUBSETS)


def draws_table(draws: Draws, candidates: Candidates, positions: Ints) -> pa.Table:
    """What was asked of the oracle, in order, as the catalogue has it."""
    return pa.table(
        {
            "round": pa.array(draws.rounds, pa.int32()),
            "arm": pa.array(draws.arms, pa.int32()),
            "draw": pa.array(np.arange(len(draws.rows)), pa.int64()),
            "sample_id": [candidates.ids[row] for row in draws.rows],
            "position": pa.array(positions[draws.rows], pa.int64()),
            "index_value": _known(draws.index),
            "reward": _known(draws.rewards),
        }
    )


def _known(values: npt.NDArray[np.float64]) -> pa.Array:
    """Numbers; what is not finite as null."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))


def _summary(
    config: SelectConfig, inputs: Inputs, candidates: Candidates, ranking: Ranking, oracle: Oracle
) -> dict[str, Any]:
    rows, scores = ranking.rows, ranking.scores[np.isfinite(ranking.scores)]
    summary: dict[str, Any] = {"method": config.method, "selected": f"{len(rows)} of {len(candidates)} samples"}
    if candidates.tokens is not None:
        summary["tokens"] = f"{candidates.tokens[rows].sum()} of {candidates.tokens.sum()}"
    if oracle.spent:
        summary["gradients"] = f"{oracle.spent} of {oracle.limit}"
    summary["scores"] = f"{scores.min():.4g} to {scores.max():.4g}" if len(scores) else None
    excluded = ranking.excluded if ranking.excluded is not None else np.zeros(0, np.int64)
    summary["excluded"] = len(excluded)
    if len(excluded):
        summary["excluded_first"] = [candidates.ids[row] for row in excluded[:SHOWN]]
    summary["sources"] = dict(Counter(candidates.sources[row] for row in rows).most_common())
    first = [candidates.ids[row] for row in rows[:SHOWN]]
    found = samples_of(inputs.artifacts["pool"], first)
    summary["first"] = [
        {"rank": rank, "score": float(score) if np.isfinite(score) else None, "text": _start(text_of(found[sample_id]))}
        for rank, (sample_id, score) in enumerate(zip(first, ranking.scores, strict=False))
    ]
    return summary


def _start(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
