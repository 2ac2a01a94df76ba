"""What a sample's gradient is worth to a target: LESS's score, at the checkpoints of a warm-up run.

score_i = max over subtasks of mean_j Σ_c w_c · cos(Γ_i,c, v_j,c), w_c ∝ the mean learning rate up to checkpoint c.
Features are kept by content (weights, optimizer state, tokens, sketch), so another selection, another budget or a
stopped one computes only what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError, DataError
from ...executors.options import executor_for
from ...executors.work import Executor
from ...log import LOGGER
from ...pool_selectors import Measure
from ...pool_selectors.base import averages
from ...pool_selectors.candidates import Floats, Ints
from ...runtime.terminal import command
from ...store import Artifact, Store
from ...store.artifacts.files import fingerprint_of
from ..consent import Consent, check
from ..inputs import Inputs, locate
from ..pools import pool_samples
from ..tokenization import ModelSettings, tokenization_digest
from .candidates import subtasks_of
from .gradient_features import Chunk, Features

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from .config import SelectConfig

CHUNK = 64
"""Samples whose features are kept together: what a stop can lose."""

PARTS = 4
"""How many chunks a small request is made of at least, where each is a full pass: as many processes can help."""

BLOCK = 1024
"""Samples whose features are in memory at once."""

LAST_ONLY = ("cluster_ucb",)
"""Methods that look at the current checkpoint alone."""


def oracle(config: SelectConfig, inputs: Inputs, pool_rows: Ints, target_rows: Ints) -> Measure:
    """LESS's score of candidates by row; see the module's first lines."""
    from ...lm.model.load import load_tokenizer
    from ...lm.tokens.encode import Encoder
    from ...training.checkpoint_files import whole_checkpoints
    from ...training.gradients.features import mean_rates

    warmup = inputs.artifacts["warmup"]
    asked = {"trust_remote_code": warmup.config.get("trust_remote_code", False)}
    check(asked, Consent({"trust_remote_code": config.trust_remote_code}), f"The run '{warmup.name}'")
    # The other options were checked when the run was made.
    settings = ModelSettings.model_construct(**{**warmup.config, "trust_remote_code": config.trust_remote_code})
    run = whole_checkpoints(warmup.path / "checkpoints")
    if not run:
        raise ConfigError(
            f"The run '{warmup.name}' has no checkpoints with optimizer state. Make them: "
            f"{command('curate', 'train', '--name', warmup.name)} --save-steps N "
            f"(and see that {warmup.path / 'checkpoints'} is kept)."
        )
    weights = mean_rates(run)
    if config.method in LAST_ONLY:
        run, weights = run[-1:], [1.0]
    base, _ = locate(inputs.store, settings.model, kind="model")
    tokenizer = load_tokenizer(settings.options(base))
    encoder = Encoder(tokenizer, max_length=settings.max_length, loss_on=settings.loss_on)
    pool = _encode(inputs.artifacts["pool"], pool_rows, encoder)
    target = _encode(inputs.artifacts["target"], target_rows, encoder)
    subtasks = _subtasks(inputs.artifacts["target"], target)
    looks = [
        CheckpointGradients(
            config,
            inputs.store,
            settings,
            checkpoint,
            tokenization_digest(settings, tokenizer),
            coverage=warmup.config.get("gradient_coverage", "all"),
        )
        for checkpoint in run
    ]
    return CheckpointScorer(looks, weights, pool, target, averages(subtasks), label=config.name)


def _encode(pool: Artifact, positions: Ints, encoder: Any) -> dict[int, tuple[TokenTable, int]]:
    """Place in `positions` -> where the sample is in a token table; a sample with nothing to train on is not there."""
    from ...lm.tokens.encode import encode_all
    from ...lm.tokens.token_table import TokenTable

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
    samples = dict(pool_samples(pool))
    return subtasks_of([samples[int(table.positions[row])] for table, row in target.values()], pool.name)


def digest_of(checkpoint: Path) -> str:
    """Hash of a checkpoint's weights and optimizer state."""
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
    """Features at one checkpoint, from what is kept; a model is loaded when something is missing.

    Args:
        config: sketch, precision and the like, and who computes.
        store: where features are kept.
        settings: model and tokenizer of the warm-up run.
        checkpoint: of the run.
        digest: of the tokenization.
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
        folders = {
            target: store.root / "cache" / "gradients" / fingerprint_of("gradients", {"of": [*key, mode]}, {})[3:19]
            for target, mode in ((False, config.eps_mode), (True, "target"))
        }
        self.config = config
        self.work = Features(config, settings, checkpoint, folders, coverage)
        self._crew: Executor[Chunk] | None = None

    def features(
        self, places: Sequence[tuple[TokenTable, int]], *, target: bool, label: str
    ) -> npt.NDArray[np.float32]:
        """Unit features (n, D), kept or made now."""
        return np.concatenate(list(self.blocks(places, target=target, label=label)))

    def blocks(
        self, places: Sequence[tuple[TokenTable, int]], *, target: bool, label: str
    ) -> Iterator[npt.NDArray[np.float32]]:
        """The same, `BLOCK` places at a time, once all of them are made."""
        if self._crew is None:
            self._crew = executor_for(self.work, self.config, once=False)
        self._crew.make(self._chunks(places, target=target), label=label)
        for start in range(0, len(places), BLOCK):
            ids = [table.ids[row] for table, row in places[start : start + BLOCK]]
            found = self.work.caches[target].get(ids)
            yield np.stack([found[sample_id] for sample_id in ids])

    def _chunks(self, places: Sequence[tuple[TokenTable, int]], *, target: bool) -> list[Chunk]:
        size = min(CHUNK, max(self.config.score_batch_size, -(-len(places) // PARTS)))
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        return [
            Chunk(part[0][0], [row for _, row in part], [table.ids[row] for table, row in part], target)
            for part in parts
        ]

    def close(self) -> None:
        """Let go of the model."""
        if self._crew is not None:
            self._crew.close()
        self._crew = None


class CheckpointScorer:
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
        looks: Sequence[CheckpointGradients],
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
        self.target = list(target.values())
        self.means = means
        self.label = label
        self._targets = [self._target(look) for look in looks]

    def __call__(self, rows: Ints) -> Floats:
        """(r,) -> (r,); NaN where a sample has no finite gradient, or nothing to train on."""
        rewards = np.full(len(rows), np.nan)
        known = [at for at, row in enumerate(rows) if int(row) in self.pool]
        places = [self.pool[int(rows[at])] for at in known]
        if not places:
            return rewards
        total = np.zeros((len(places), len(self.target)))
        for look, weight, target in zip(self.looks, self.weights, self._targets, strict=True):
            blocks = look.blocks(places, target=False, label=self.label)
            total += weight * np.concatenate([block @ target.T for block in blocks])
            self._leave(look)
        rewards[known] = (self.means @ total.T).max(0)
        return rewards

    def _target(self, look: CheckpointGradients) -> npt.NDArray[np.float32]:
        """Features of the target at a checkpoint, (m, D); all finite."""
        found = look.features(self.target, target=True, label=f"{self.label}: target")
        bad = [self.target[at] for at in np.flatnonzero(np.isnan(found).any(1))]
        if bad:
            table, row = bad[0]
            raise DataError(
                f"{len(bad)} samples of the target have a gradient that is not finite, the first {table.ids[row]}: "
                "take them out of the target."
            )
        self._leave(look)
        return found

    def _leave(self, look: CheckpointGradients) -> None:
        """Of several checkpoints, one at a time is in memory."""
        if len(self.looks) > 1:
            look.close()
