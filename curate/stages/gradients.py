"""What a sample's gradient is worth to a target: LESS's score, at the checkpoints of a warm-up run.

score_i = max over subtasks of mean_j Σ_c w_c · cos(Γ_i,c, v_j,c), w_c ∝ the mean learning rate up to checkpoint c.
Features are kept by content (weights, optimizer state, tokens, sketch), so another selection, another budget or a
stopped one computes only what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError
from ..log import LOGGER, bar
from ..pool import Measure
from ..pool.base import Floats, Ints, averages
from ..store import Artifact, Store
from ..store.cache import VectorCache
from ..store.files import fingerprint
from .candidates import subtasks_of
from .inputs import Inputs, place
from .pools import pool_samples
from .reading import Reading, reading_digest
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..lm.encode import TokenTable
    from ..lm.influence import Influence
    from .select import SelectConfig

CHUNK = 64
"""Samples whose features are kept together: what a stop can lose."""

LAST_ONLY = ("cluster_ucb",)
"""Methods that look at the current checkpoint alone."""


def oracle(config: SelectConfig, inputs: Inputs, pool_rows: Ints, target_rows: Ints) -> Measure:
    """LESS's score of candidates by row; see the module's first lines."""
    from ..lm.encode import Encoder
    from ..lm.influence import mean_rates, whole_checkpoints
    from ..lm.load import load_tokenizer

    warmup = inputs.artifacts["warmup"]
    reading = TrainConfig(**warmup.config)
    run = whole_checkpoints(warmup.path / "checkpoints")
    if not run:
        raise ConfigError(
            f"The run '{warmup.name}' has no checkpoints with optimizer state. Make them: curate train --name "
            f"{warmup.name} --save-steps N (and see that {warmup.path / 'checkpoints'} is kept)."
        )
    weights = mean_rates(run)
    if config.method in LAST_ONLY:
        run, weights = run[-1:], [1.0]
    base, _ = place(inputs.store, reading.model, kind="model")
    tokenizer = load_tokenizer(reading.options(base))
    encoder = Encoder(tokenizer, max_length=reading.max_length, loss_on=reading.loss_on)
    pool = _encode(inputs.artifacts["pool"], pool_rows, encoder)
    target = _encode(inputs.artifacts["target"], target_rows, encoder)
    subtasks = _subtasks(inputs.artifacts["target"], target)
    looks = [Look(config, inputs.store, reading, checkpoint, reading_digest(reading, tokenizer)) for checkpoint in run]
    return Scorer(looks, weights, pool, target, averages(subtasks), label=config.name)


def _encode(pool: Artifact, positions: Ints, encoder: Any) -> dict[int, tuple[TokenTable, int]]:
    """Place in `positions` -> where the sample is in a token table; a sample with nothing to train on is not there."""
    from ..lm.encode import TokenTable, encode_all

    wanted = {int(position): row for row, position in enumerate(positions)}
    refused: dict[str, str] = {}
    samples = ((position, sample) for position, sample in pool_samples(pool) if position in wanted)
    table = TokenTable(encode_all(samples, encoder, refused))
    if refused:
        LOGGER.warning(f"{len(refused)} samples of '{pool.name}' have nothing to train on: they get no score.")
    if not len(table):
        raise DataError(f"No sample of '{pool.name}' has anything to train on: raise the warm-up run's --max-length.")
    return {wanted[int(position)]: (table, row) for row, position in enumerate(table.positions)}


def _subtasks(pool: Artifact, target: dict[int, tuple[TokenTable, int]]) -> list[str]:
    samples = {sample.sample_id: sample for _, sample in pool_samples(pool)}
    return subtasks_of([samples[table.ids[row]] for table, row in target.values()], pool.name)


class Look:
    """Features at one checkpoint, kept by content; the model is loaded when something is missing.

    Args:
        config: sketch, precision and the like.
        store: where features are kept.
        reading: how the warm-up run read samples.
        checkpoint: of the run.
        digest: of the reading.
    """

    def __init__(self, config: SelectConfig, store: Store, reading: TrainConfig, checkpoint: Any, digest: str) -> None:
        from ..lm.influence import digest_of

        self.config = config
        self.reading: Reading = reading
        self.checkpoint = checkpoint
        self._influence: Influence | None = None
        key = [digest_of(checkpoint), digest, config.sketch_dim, config.sketch_seed, config.feature_precision]
        self._caches = {
            target: VectorCache(
                store.root / "cache" / "gradients" / fingerprint("gradients", {"of": [*key, mode]}, {})[3:19],
                config.sketch_dim,
                config.feature_precision,
            )
            for target, mode in ((False, config.eps_mode), (True, "target"))
        }

    def features(
        self, places: Sequence[tuple[TokenTable, int]], *, target: bool, label: str
    ) -> npt.NDArray[np.float32]:
        """Unit features (n, D), from the cache or made now and kept."""
        cache = self._caches[target]
        ids = [table.ids[row] for table, row in places]
        found = cache.get(ids)
        missing = [at for at, sample_id in enumerate(ids) if sample_id not in found]
        with bar(total=len(ids), label=label, unit="gradient", initial=len(ids) - len(missing)) as progress:
            for start in range(0, len(missing), CHUNK):
                chunk = [places[at] for at in missing[start : start + CHUNK]]
                made = self._look().features(chunk[0][0], [row for _, row in chunk], target=target).numpy()
                names = [ids[at] for at in missing[start : start + CHUNK]]
                cache.add(names, made)
                found.update(zip(names, cache.rounded(made), strict=True))
                progress.update(len(chunk))
        return np.stack([found[sample_id] for sample_id in ids])

    def _look(self) -> Influence:
        from ..lm.influence import Influence
        from ..numerics.gradients import SignHash

        if self._influence is None:
            self._influence = Influence(
                self.reading.options(str(self.checkpoint)),
                SignHash(self.config.sketch_dim, self.config.sketch_seed),
                eps_mode=self.config.eps_mode,
                coverage=getattr(self.reading, "gradient_coverage", "all"),
                micro_batch=self.config.score_batch_size,
            )
        return self._influence

    def close(self) -> None:
        """Let go of the model."""
        self._influence = None


class Scorer:
    """Rewards of candidates: callable as `Measure`.

    Args:
        looks: one a checkpoint.
        weights: of the checkpoints.
        pool, target: where each sample's tokens are.
        means: (subtasks, target samples), see `averages`.
        label: of the progress bar.
    """

    def __init__(
        self,
        looks: Sequence[Look],
        weights: Sequence[float],
        pool: dict[int, tuple[TokenTable, int]],
        target: dict[int, tuple[TokenTable, int]],
        means: Floats,
        *,
        label: str,
    ) -> None:
        self.looks = looks
        self.weights = weights
        self.pool = pool
        self.means = means
        self.label = label
        self._targets = [look.features(list(target.values()), target=True, label=f"{label}: target") for look in looks]
        if any(np.isnan(features).any() for features in self._targets):
            raise DataError("A sample of the target has a gradient that is not finite: take it out of the target.")

    def __call__(self, rows: Ints) -> Floats:
        """(r,) -> (r,); NaN where a sample has no finite gradient, or nothing to train on."""
        rewards = np.full(len(rows), np.nan)
        known = [at for at, row in enumerate(rows) if int(row) in self.pool]
        places = [self.pool[int(rows[at])] for at in known]
        if not places:
            return rewards
        total = np.zeros((len(places), self.means.shape[1]))
        for look, weight, target in zip(self.looks, self.weights, self._targets, strict=True):
            total += weight * (look.features(places, target=False, label=self.label) @ target.T)
            if len(self.looks) > 1:
                look.close()
        rewards[known] = (self.means @ total.T).max(0)
        return rewards
