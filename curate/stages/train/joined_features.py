"""What a run joins to its pool: features of a reference model, clusters, batches of a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ConfigError, DataError
from ...runtime.distributed import size
from ...store import Artifact
from ..inputs import Inputs
from ..pools import pool_samples
from ..select.candidates import subtasks_of
from ..tokenization import encode_pool, tokenization_digest
from .config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ...lm.tokens.token_table import TokenTable
    from ...training.target_sampler import TargetSampler


def references(
    config: TrainConfig, inputs: Inputs, table: TokenTable, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """The stored features that the selector asks for, by sample id, in the table's order."""
    from ...selectors import RunInfo, make_selector

    found = {}
    for feature in make_selector(config.selector, config.selector_args, RunInfo(vocab_size=8, max_length=8)).features:
        if feature == "reference_loss":
            found[feature] = _reference_loss(config, inputs, table, tokenizer)
        elif feature == "cluster":
            found[feature] = _clusters(config, inputs, table)
        else:
            raise ConfigError(
                f"Selector {config.selector} wants the feature '{feature}', and a run can join reference_loss and "
                "cluster only."
            )
    return found


def _clusters(config: TrainConfig, inputs: Inputs, table: TokenTable) -> Tensor:
    import torch

    if config.clusters is None:
        raise ConfigError(
            f"Selector {config.selector} (memory_policy per_cluster) wants --clusters NAME: curate cluster makes it."
        )
    cluster = _column(
        inputs, inputs.artifacts["clusters"], "SELECT sample_id, cluster FROM clusters WHERE clusters = $name"
    )
    return torch.tensor([cluster.get(sample_id, -1) for sample_id in table.ids])


def _reference_loss(
    config: TrainConfig, inputs: Inputs, table: TokenTable, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """The reference model's loss of every sample; refuses one that saw other tokens or another mask."""
    import torch

    if config.reference is None:
        raise ConfigError(
            f"Selector {config.selector} wants --reference NAME: the loss of a reference model on the pool. Make it: "
            f"curate embed --pool {config.pool} --model REFERENCE --signals loss --name NAME."
        )
    artifact = inputs.artifacts["reference"]
    if (artifact.path / "reading.txt").read_text(encoding="utf-8") != tokenization_digest(config, tokenizer):
        raise ConfigError(
            f"The reference '{config.reference}' was measured with another tokenizer, chat template, --max-length or "
            "--loss-on than this run's, so its losses are not of the same tokens. Embed the pool again with the run's."
        )
    loss = _column(inputs, artifact, "SELECT sample_id, loss FROM features WHERE features = $name")
    missing = [sample_id for sample_id in table.ids if loss.get(sample_id) is None]
    if missing:
        raise DataError(
            f"The reference '{config.reference}' has no loss of {len(missing)} samples, {missing[0]} among them. Was it"
            f" made of the pool '{config.pool}', with the signal loss?"
        )
    return torch.tensor([loss[sample_id] for sample_id in table.ids], dtype=torch.float64)


def _column(inputs: Inputs, artifact: Artifact, sql: str) -> dict[str, float]:
    rows = inputs.store.query(sql, {"name": inputs.store.display_names()[artifact.fingerprint]})
    return dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def encode_target(
    config: TrainConfig, inputs: Inputs, tokenizer: PreTrainedTokenizerBase, *, distinct: bool = False
) -> tuple[TokenTable, list[str]]:
    """The target as tokens, and the subtask of every row; with `distinct`, each conversation once."""
    target = inputs.artifacts["target"]
    table, _ = encode_pool(config, tokenizer, target, distinct=distinct)
    samples = dict(pool_samples(target))
    return table, subtasks_of([samples[position] for position in table.positions.tolist()], target.name)


def target_sampler(config: TrainConfig, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> TargetSampler | None:
    """Batches of the target pool for a selector that wants one."""
    from ...selectors import RunInfo, make_selector
    from ...training.target_sampler import TargetSampler

    selector = make_selector(config.selector, config.selector_args, RunInfo(vocab_size=8, max_length=8))
    if selector.gradients is None or not selector.gradients.target:
        return None
    if config.target is None:
        raise ConfigError(
            f"Selector {config.selector} wants --target POOL: samples of what the model should get good at."
        )
    if config.group is not None:
        raise ConfigError(
            f"Selector {config.selector} chooses among all candidates of a step: leave --scope at global."
        )
    if config.target_batch_size % size():
        raise ConfigError(
            f"--target-batch-size {config.target_batch_size} is no multiple of the {size()} processes that share it."
        )
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
