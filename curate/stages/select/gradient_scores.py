"""LESS scores: how much a training step on a sample would help the target, at the checkpoints of a warm-up run.

score_i = max over subtasks of mean_j Σ_c w_c · cos(Γ_i,c, v_j,c), w_c ∝ the mean learning rate up to checkpoint c.
Γ is the direction of Adam's update with a sample's gradient, v the gradient of a target sample. Features are cached by
their content (weights, optimizer state, tokens, sketch), so another selection, another budget or a resumed command
computes only the missing ones.

Source: LESS, Xia et al., ICML 2024.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError, DataError
from ...executors.options import executor_for
from ...executors.work import Executor
from ...pool_selectors import Measure
from ...pool_selectors.base import averages
from ...pool_selectors.candidates import Floats, Ints
from ...runtime.terminal import command
from ...store import Artifact, Store
from ...store.artifacts.files import fingerprint_of
from ..inputs import Inputs
from ..pools import pool_samples
from ..settings import ModelSettings
from ..tokens.tokenization import tokenization_digest
from ..tokens.turns import Expansion
from .candidates import subtasks_of
from .gradient_features import Chunk, Features
from .warmup_samples import encode_candidates, encode_distinct, warmup_encoder, warmup_settings

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from .config import SelectConfig

CHUNK = 64
"""Number of samples whose features are cached together. Work on at most one chunk per process is lost by a stop."""

PARTS = 4
"""Minimum number of chunks of a small request, if each fills a pass, so that as many processes can share it."""

BLOCK = 1024
"""Number of samples whose features are in memory at once."""

LAST_ONLY = ("cluster_ucb",)
"""Methods that use only the last checkpoint."""


def oracle(config: SelectConfig, inputs: Inputs, candidates: Sequence[str]) -> Measure:
    """Return the function that computes the LESS scores of candidates; see the module's documentation.

    Args:
        config: configuration of the selection.
        inputs: the pool, the target and the warm-up run.
        candidates: sample id of each candidate.

    Raises:
        ConfigError: the warm-up run has no checkpoints.
        DataError: no sample of the pool or of the target has a token to train on.
    """
    from ...training.checkpoint_files import whole_checkpoints
    from ...training.gradients.features import mean_rates

    warmup, settings = inputs.artifacts["warmup"], warmup_settings(config, inputs)
    checkpoints = whole_checkpoints(warmup.path / "checkpoints")
    if not checkpoints:
        raise ConfigError(
            f"The run '{warmup.name}' has no checkpoints with optimizer state. Make them: "
            f"{command('curate', 'train', '--name', warmup.name)} --save-steps N "
            f"(and keep the folder {warmup.path / 'checkpoints'})."
        )
    weights = mean_rates(checkpoints)
    if config.method in LAST_ONLY:
        checkpoints, weights = checkpoints[-1:], [1.0]
    encoder = warmup_encoder(settings, inputs)
    pool = encode_candidates(inputs.artifacts["pool"], candidates, encoder)
    table = encode_distinct(inputs.artifacts["target"], Expansion(encoder))
    target = {row: (table, row) for row in range(len(table))}
    subtasks = _subtasks(inputs.artifacts["target"], target)
    gradients = [
        CheckpointGradients(
            config,
            inputs.store,
            settings,
            checkpoint,
            tokenization_digest(settings, encoder.tokenizer),
            coverage=warmup.config.get("gradient_coverage", "all"),
        )
        for checkpoint in checkpoints
    ]
    return CheckpointScorer(gradients, weights, pool, target, averages(subtasks), label=config.name)


def _subtasks(pool: Artifact, target: dict[int, tuple[TokenTable, int]]) -> list[str]:
    samples = dict(pool_samples(pool))
    return subtasks_of([samples[int(table.positions[row])] for table, row in target.values()], pool.name)


def digest_of(checkpoint: Path) -> str:
    """Return a hash of a checkpoint's weights and optimizer state."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("optimizer.pt")]):
        if file.name.startswith("selector"):
            continue
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


class CheckpointGradients:
    """Gradient features at one checkpoint, read from the cache; the model is loaded only if features are missing.

    Args:
        config: options of the sketch, of its precision and of the execution.
        store: store that holds the cache.
        settings: model and tokenizer of the warm-up run.
        checkpoint: folder of the checkpoint.
        digest: digest of the tokenization.
        coverage: `all` or `linear`, as in the warm-up run; see `GradientEngine`.
    """

    def __init__(
        self,
        config: SelectConfig,
        store: Store,
        settings: ModelSettings,
        checkpoint: Path,
        digest: str,
        *,
        coverage: str,
    ) -> None:
        key = [digest_of(checkpoint), digest, config.sketch_dim, config.sketch_seed, config.feature_precision]
        if config.projection != "count":
            key += [config.projection, config.projection_dim]
        of_pool = config.eps_mode if config.direction == "update" else "gradient"
        folders = {
            target: store.root / "cache" / "gradients" / fingerprint_of("gradients", {"of": [*key, mode]}, {})[3:19]
            for target, mode in ((False, of_pool), (True, "target"))
        }
        self.config = config
        self.work = Features(config, settings, checkpoint, folders, coverage)
        self._executor: Executor[Chunk] | None = None

    def features(
        self, samples: Sequence[tuple[TokenTable, int]], *, target: bool, label: str
    ) -> npt.NDArray[np.float32]:
        """Return features of unit length, (n, D), from the cache or computed now.

        Args:
            samples: token table and row of each of n samples.
            target: True for plain gradients, as for target samples; False for Adam's updates.
            label: label of the progress bar.
        """
        return np.concatenate(list(self.blocks(samples, target=target, label=label)))

    def blocks(
        self, samples: Sequence[tuple[TokenTable, int]], *, target: bool, label: str
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the same features, `BLOCK` samples at a time, after all of them are computed."""
        if self._executor is None:
            self._executor = executor_for(self.work, self.config, once=False)
        self._executor.make(self._chunks(samples, target=target), label=label)
        for start in range(0, len(samples), BLOCK):
            ids = [table.ids[row] for table, row in samples[start : start + BLOCK]]
            cached = self.work.caches[target].get(ids)
            yield np.stack([cached[sample_id] for sample_id in ids])

    def _chunks(self, samples: Sequence[tuple[TokenTable, int]], *, target: bool) -> list[Chunk]:
        """Cut a request into chunks of samples of similar length, so that a pass has little padding."""
        samples = sorted(samples, key=lambda sample: int(sample[0].lengths[sample[1]]))
        size = min(CHUNK, max(self.config.score_batch_size, -(-len(samples) // PARTS)))
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [
            Chunk(part[0][0], [row for _, row in part], [table.ids[row] for table, row in part], target)
            for part in parts
        ]

    def close(self) -> None:
        """Release the model."""
        if self._executor is not None:
            self._executor.close()
        self._executor = None


class CheckpointScorer:
    """LESS scores of candidates over the checkpoints of a run; callable as `Measure`.

    Args:
        checkpoints: gradient features of each checkpoint.
        weights: weight of each checkpoint.
        pool: candidate -> its token table and row. A candidate that is not in it gets NaN.
        target: the same for target samples.
        means: (subtasks, target samples), see `averages`.
        label: label of the progress bar.
    """

    def __init__(
        self,
        checkpoints: Sequence[CheckpointGradients],
        weights: Sequence[float],
        pool: dict[int, tuple[TokenTable, int]],
        target: dict[int, tuple[TokenTable, int]],
        means: Floats,
        *,
        label: str,
    ) -> None:
        self.checkpoints = checkpoints
        self.weights = weights
        self.pool = pool
        self.target = list(target.values())
        self.means = means
        self.label = label
        self._targets = [self._target(checkpoint) for checkpoint in checkpoints]

    def __call__(self, rows: Ints) -> Floats:
        """Return the score of each candidate, (r,) -> (r,); NaN without a finite gradient or a token to train on."""
        scores = np.full(len(rows), np.nan)
        known = [index for index, row in enumerate(rows) if int(row) in self.pool]
        samples = [self.pool[int(rows[index])] for index in known]
        if not samples:
            return scores
        total = np.zeros((len(samples), len(self.target)))
        for checkpoint, weight, target in zip(self.checkpoints, self.weights, self._targets, strict=True):
            blocks = checkpoint.blocks(samples, target=False, label=self.label)
            total += weight * np.concatenate([block @ target.T for block in blocks])
            self._release(checkpoint)
        scores[known] = (self.means @ total.T).max(0)
        return scores

    def _target(self, checkpoint: CheckpointGradients) -> npt.NDArray[np.float32]:
        """Return the features of the target at a checkpoint, (m, D); all are finite."""
        features = checkpoint.features(self.target, target=True, label=f"{self.label}: target")
        bad = [self.target[index] for index in np.flatnonzero(np.isnan(features).any(1))]
        if bad:
            table, row = bad[0]
            raise DataError(
                f"{len(bad)} samples of the target have a gradient that is not finite, the first {table.ids[row]}: "
                "remove them from the target."
            )
        self._release(checkpoint)
        return features

    def _release(self, checkpoint: CheckpointGradients) -> None:
        """Release a checkpoint's model if there are several checkpoints: one at a time is in memory."""
        if len(self.checkpoints) > 1:
            checkpoint.close()
