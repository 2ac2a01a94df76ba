"""Data that a run adds to its pool: stored features by column name, clusters, batches of a target pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError
from ...runtime.distributed import size
from ...store import Artifact
from ...store.artifacts.safe_files import read_text
from ..inputs import Inputs
from ..pools import pool_samples
from ..select.candidates import subtasks_of
from ..stored_columns import column_of
from ..tokens.tokenization import encode_pool, tokenization_digest
from .config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.token_table import TokenTable
    from ...training.target_sampler import TargetSampler


@dataclass(frozen=True)
class Source:
    """Source of a stored feature.

    Attributes:
        option: option of `curate train` that names the artifact.
        table: table that holds the feature, keyed by sample id.
        column: column of the feature in that table.
        hint: command that makes the artifact, for error messages.
    """

    option: str
    table: str
    column: str
    hint: str


SOURCES = {
    "reference_loss": Source(
        "reference",
        "features",
        "loss",
        "the loss of a reference model on the pool. Make it: curate embed --pool {pool} --model REFERENCE "
        "--signals loss --name NAME",
    ),
    "cluster": Source("clusters", "clusters", "cluster", "clusters of the pool. Make them: curate cluster"),
}
"""Feature -> its source. Any other feature is the column of that name in the artifact of --features."""


def check_requirements(config: TrainConfig) -> None:
    """Raise `ConfigError` if the selector needs data that no option names: before a model is loaded."""
    from ...selectors import requirements_of

    required = requirements_of(config.selector, config.selector_args)
    unused = SOURCES.keys() >= set(required.features) and config.prescreen_column is None
    if config.features is not None and unused:
        raise ConfigError(f"Selector {config.selector} does not use --features {config.features}: leave it out.")
    for feature in required.features:
        _source(feature, config)
    if not required.target:
        return
    if config.target is None:
        raise ConfigError(
            f"Selector {config.selector} needs --target POOL: samples of the task that the model should become good "
            "at. Make it: curate ingest --data FILE --name POOL."
        )
    if config.group is not None:
        raise ConfigError(
            f"Selector {config.selector} selects among all candidates of a step: leave --scope at global."
        )
    if config.target_batch_size % size():
        raise ConfigError(
            f"--target-batch-size {config.target_batch_size} must be a multiple of the {size()} processes."
        )


def _source(feature: str, config: TrainConfig) -> Source:
    """Return the source of a feature; `ConfigError` if its option is not given."""
    source = SOURCES.get(feature) or _column_of_features(feature)
    if getattr(config, source.option) is None:
        raise ConfigError(
            f"Selector {config.selector} needs --{source.option} NAME: {source.hint.format(pool=config.pool)}."
        )
    return source


def _column_of_features(column: str) -> Source:
    hint = f"features of the pool with a column '{column}'. Make them: curate embed or grade; see curate query --list"
    return Source("features", "features", column, hint)


def joined_features(
    config: TrainConfig, inputs: Inputs, table: TokenTable, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Return the stored features that the selector needs, by name, in the table's order.

    Raises:
        ConfigError: the option that names a feature's artifact is missing, or the artifact does not have the column.
        DataError: a sample of the pool has no value.
    """
    from ...selectors import requirements_of

    needed = requirements_of(config.selector, config.selector_args).features
    return {feature: _joined_feature(feature, config, inputs, table, tokenizer) for feature in needed}


def _joined_feature(
    feature: str, config: TrainConfig, inputs: Inputs, table: TokenTable, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Read one feature of every sample of the table: (n,) int64 for clusters, float64 for all others."""
    import torch

    source = _source(feature, config)
    name = getattr(config, source.option)
    artifact = inputs.artifacts[source.option]
    if feature == "reference_loss":
        _check_same_tokens(config, artifact, tokenizer)
    values = column_of(inputs.store, artifact, source.column, source.table)
    if feature == "cluster":
        return torch.tensor([values.get(sample_id, -1) for sample_id in table.ids])
    return _numbers(values, source.column, name, config, table)


def joined_column(column: str, config: TrainConfig, inputs: Inputs, table: TokenTable) -> Tensor:
    """Read a column of --features for every sample of the table, (n,) float64.

    Raises:
        ConfigError: the artifact does not have the column.
        DataError: a sample of the pool has no value.
    """
    artifact = inputs.artifacts["features"]
    values = column_of(inputs.store, artifact, column)
    return _numbers(values, column, artifact.name, config, table)


def _numbers(values: dict[str, Any], column: str, name: str, config: TrainConfig, table: TokenTable) -> Tensor:
    """Return the value of every sample of the table, (n,) float64; `DataError` if one has none."""
    import torch

    missing = [sample_id for sample_id in table.ids if values.get(sample_id) is None]
    if missing:
        raise DataError(
            f"'{name}' has no {column} for {len(missing)} samples, {missing[0]} among them. Make it from the "
            f"pool '{config.pool}', with that column and the --turns of this run, or leave these samples out: --subset."
        )
    return torch.tensor([float(values[sample_id]) for sample_id in table.ids], dtype=torch.float64)


def _check_same_tokens(config: TrainConfig, artifact: Artifact, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ConfigError` if the reference losses were measured on other tokens or with another loss mask."""
    if read_text(artifact.path / "reading.txt") != tokenization_digest(config, tokenizer):
        raise ConfigError(
            f"The reference '{config.reference}' was measured with another tokenizer, chat template, --date, "
            "--max-length or --loss-on than this run, so its losses are not of the same tokens. Embed the pool again "
            "with those of the run."
        )


def encode_target(
    config: TrainConfig, inputs: Inputs, tokenizer: PreTrainedTokenizerBase, *, distinct: bool = False
) -> tuple[TokenTable, list[str]]:
    """Tokenize the target; also return the subtask of every row. With `distinct`, encode each conversation once."""
    target = inputs.artifacts["target"]
    table = encode_pool(config, tokenizer, target, distinct=distinct).table
    samples = dict(pool_samples(target))
    return table, subtasks_of([samples[position] for position in table.positions.tolist()], target.name)


def target_sampler(config: TrainConfig, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> TargetSampler | None:
    """Return the sampler of target batches, or None if the selector needs no target."""
    from ...selectors import requirements_of
    from ...training.target_sampler import TargetSampler

    if not requirements_of(config.selector, config.selector_args).target:
        return None
    table, subtasks = encode_target(config, inputs, tokenizer)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(subtasks):
        groups.setdefault(name, []).append(row)
    return TargetSampler(
        table,
        [groups[name] for name in sorted(groups)],
        size=config.target_batch_size,
        seed=config.seed,
        pad_token_id=int(tokenizer.pad_token_id or 0),
    )
