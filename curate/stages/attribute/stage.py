"""`curate attribute`: rank the samples that a run was trained on by their influence on answers.

The ledger says in which steps a sample was trained on, and with which weight. At each checkpoint the gradients of the
samples are multiplied with those of the queries. Each chunk of texts is a task that writes one file, so a stopped
command goes on where it was.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...executors.local import LocalExecutor
from ...log import LOGGER
from ...samples import Sample
from ...store import Draft
from ..inputs import Inputs, check_models
from ..pools import samples_of
from ..select.candidates import text_of
from ..select.warmup_samples import recorded_settings, warmup_encoder
from ..stage import NOT_MEASURED, Stage
from ..tokens.turns import record_answers
from .config import AttributeConfig
from .ledger_steps import Exposure, kept_checkpoints, read_exposures
from .passes import AttributionPass, Chunk, chunks_of, read_products
from .ranking import Ranking, token_influence
from .texts import Queries, TrainedTexts, read_queries, read_trained

if TYPE_CHECKING:
    from ...lm.tokens.encode import Encoder

EXAMPLES = """\
curate attribute --run run --text "What is the capital of France?" --answer "Paris." --name why
curate attribute --run run --pool heldout --limit 20 --per-token --name why-heldout
curate attribute --run run --pool heldout --metric less --sketch-dim 8192 --name like-less
torchrun --nproc-per-node 8 -m curate attribute --run run --pool heldout --name why-heldout
curate query attributed --param attribution=why"""

SHOWN = 5
SHOWN_CHARACTERS = 60
PROBED = 64
"""Most samples from which the metric of the optimizer is estimated at a checkpoint."""
TOKEN_CHUNK = 8
"""Number of texts whose products by token are computed and written together."""


def more_inputs(config: AttributeConfig, inputs: Inputs) -> dict[str, str]:
    """Return the steps of the checkpoints that are used: a run may keep fewer than it once had."""
    from ...training.checkpoint_files import step_of

    steps = [step_of(path) for path in kept_checkpoints(inputs.artifacts["run"], config.checkpoints)]
    return {"checkpoints": ",".join(map(str, steps))}


class Attribution:
    """An attribution while it is made.

    Args:
        config: the options.
        inputs: the run, and the queries.
        draft: the unfinished artifact.
    """

    def __init__(self, config: AttributeConfig, inputs: Inputs, draft: Draft) -> None:
        self.config, self.draft, self.run = config, draft, inputs.artifacts["run"]
        self.settings = recorded_settings(self.run, allowed=config.trust_remote_code)
        check_models(inputs.store, [self.run.inputs.get("model", "")])
        self.checkpoints = kept_checkpoints(self.run, config.checkpoints)
        self.exposures = read_exposures(inputs.store, self.run, self.checkpoints)
        self.encoder: Encoder = warmup_encoder(self.settings, inputs)
        self.queries: Queries = read_queries(config, inputs, self.encoder)
        ids = {each.sample_id for each in self.exposures}
        self.texts: TrainedTexts = read_trained(inputs.store, self.run, ids, self.encoder)

    def work(self, index: int, *, by_token: bool = False) -> AttributionPass:
        """Return the pass at a checkpoint."""
        from ...training.checkpoint_files import step_of

        checkpoint, own = self.checkpoints[index], [each for each in self.exposures if each.checkpoint == index]
        probed = own[:: -(-len(own) // PROBED) or 1]
        return AttributionPass(
            *(self.config, self.run, self.settings, checkpoint, step_of(checkpoint)),
            *(self.queries, self.texts, self.draft, probed, by_token),
        )

    def chunks(self, exposures: Sequence[Exposure], size: int | None = None) -> list[list[Chunk]]:
        """Return the chunks of exposures, by checkpoint."""
        found: list[list[Chunk]] = []
        for index in range(len(self.checkpoints)):
            found.append(chunks_of(exposures, self.texts, index, sum(map(len, found)), size))
        return found

    def passes(self, chunks: Sequence[Sequence[Chunk]], *, by_token: bool = False) -> None:
        """Compute the chunks that are not written yet, one checkpoint after another: one model is in memory."""
        for index, own in enumerate(chunks):
            executor = LocalExecutor(self.work(index, by_token=by_token))
            label = f"{self.config.name}: step {self.work(index).step}{', by token' if by_token else ''}"
            executor.make(own, label=label)
            executor.close()

    def ranking(self) -> Ranking:
        """Rank the samples by their influence on each query.

        Raises:
            DataError: no sample has a finite gradient.
        """
        chunks = self.chunks(self.exposures)
        self.passes(chunks)
        ids = {each.sample_id for each in self.exposures}
        found = Ranking.of(read_products(self.work, chunks), ids, len(self.queries.ids))
        if not found.ids:
            raise DataError(f"No sample of '{self.run.name}' has a finite gradient: its model has diverged.")
        return found

    def by_token(self, ranking: Ranking) -> dict[str, Any]:
        """Divide the influence of the listed samples among their tokens; {} without --per-token."""
        if not self.config.per_token:
            return {}
        listed = set(ranking.everywhere(self.config.top))
        chunks = self.chunks([each for each in self.exposures if each.sample_id in listed], TOKEN_CHUNK)
        self.passes(chunks, by_token=True)
        if self.draft.rank:
            return {}
        tables = read_products(functools.partial(self.work, by_token=True), chunks)
        return dict(token_influence(tables, self.texts, len(self.queries.ids), self._decode))

    def _decode(self, token: int) -> str:
        return str(self.encoder.tokenizer.decode([token]))


def run(config: AttributeConfig, inputs: Inputs, draft: Draft) -> None:
    """Rank the samples of a run and write the top and the bottom of each query's order."""
    made = Attribution(config, inputs, draft)
    ranking = made.ranking()
    by_token = made.by_token(ranking)
    if draft.rank:
        return
    draft.sweep()
    draft.add("attributions", ranking.records(made.run.fingerprint, made.queries, config.top, by_token))
    draft.reject(dict.fromkeys(ranking.rejected, "no finite gradient"))
    if ranking.rejected:
        LOGGER.warning(f"{len(ranking.rejected)} samples have a gradient that is not finite: they get no influence.")
    record_answers(draft, {**made.texts.answers, **made.queries.answers})
    draft.rows = len(ranking.ids)
    draft.summary = _summary(config, made, ranking)


def _summary(config: AttributeConfig, made: Attribution, ranking: Ranking) -> dict[str, Any]:
    """Return the summary, with both ends of the order for the query, or for the mean of the queries."""
    summary: dict[str, Any] = {
        "run": made.run.name,
        "queries": len(made.queries.ids),
        "samples": f"{len(ranking.ids)} that were trained on",
        "checkpoints": ", ".join(str(made.work(index).step) for index in range(len(made.checkpoints))),
        "metric": config.metric,
    }
    if made.run.config.get("gradient_coverage") == "linear":
        summary[NOT_MEASURED] = "those outside linear layers and experts, as in the run"
    if ranking.rejected:
        summary["rejected"] = len(ranking.rejected)
    column = ranking.influence.shape[1] - 1
    rows, _ = ranking.listed(column, SHOWN)
    best, worst = rows[:SHOWN].tolist(), rows[::-1][: max(0, len(rows) - SHOWN)].tolist()
    total = float(abs(ranking.influence[:, column]).sum()) or 1.0
    texts = _texts(made, [ranking.ids[row] for row in rows])
    for label, own in (("top", best), ("bottom", worst)):
        summary[label] = [
            {
                "influence": float(ranking.influence[row, column]),
                "share": round(float(ranking.influence[row, column]) / total, 4),
                "sample_id": ranking.ids[row],
                "text": texts[ranking.ids[row]],
            }
            for row in own
        ]
    return summary


def _texts(made: Attribution, ids: Sequence[str]) -> dict[str, str]:
    """Return the beginning of the texts of samples; of an answer it is that of the answer."""
    origins = {sample_id: made.texts.answers.get(sample_id, (sample_id, None)) for sample_id in ids}
    found: dict[str, Sample] = {}
    for pool in made.texts.pools:
        found = samples_of(pool, {conversation for conversation, _ in origins.values()}) | found
    texts = {}
    for sample_id, (conversation, turn) in origins.items():
        sample = found[conversation]
        text = text_of(sample) if turn is None else str(sample.messages[turn].get("content") or "")
        text = " ".join(text.split())
        texts[sample_id] = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return texts


STAGE = Stage(AttributeConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs)
