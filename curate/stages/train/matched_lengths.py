"""Build the sampling order of a run that is the control of another one: random samples, as long as those it kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ConfigError, DataError
from ..inputs import Inputs
from .config import TrainConfig

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from ...training.candidate_sampler import SamplingOrder

KEPT = "SELECT step, sample_id, tokens FROM ledger WHERE run = $run AND kept ORDER BY step, rank, slot"
"""Each sample that a run kept, with its step and tokens, in order."""


def matched_order(config: TrainConfig, inputs: Inputs, table: TokenTable) -> SamplingOrder | None:
    """Return the order in which a run with --lengths-of takes rows of the table; None without that option.

    The k-th row is as long as the k-th sample that the earlier run kept, or nearly so. A round has each row at most
    once: a new one begins where the earlier run kept a sample again.

    Raises:
        ConfigError: the earlier run kept another number of samples in a step, or in fewer steps.
        DataError: it kept nothing.
    """
    from ...numerics.lengths import drawn_by_length
    from ...training.candidate_sampler import SamplingOrder

    run = inputs.artifacts.get("lengths_of")
    if run is None:
        return None
    keep = int(run.config["keep"])
    if keep != config.candidates:
        raise ConfigError(
            f"The run '{run.name}' kept {keep} samples in a step, and a step of the same lengths has as many: give "
            f"--candidates {keep}."
        )
    kept = inputs.store.query(KEPT, {"run": inputs.store.display_names()[run.fingerprint]})
    if not len(kept):
        raise DataError(f"The run '{run.name}' kept no sample: there are no lengths to match.")
    steps = int(kept["step"].to_numpy().max())
    if config.max_steps > steps or (config.max_steps < 1 and config.num_train_epochs > 1):
        raise ConfigError(
            f"The run '{run.name}' has {steps} steps, and the same samples would be taken again in more: give "
            f"--max-steps {steps}, or fewer."
        )
    rounds = rounds_of(kept["sample_id"].to_pylist(), kept["tokens"].to_pylist(), len(table))
    seeds = ([config.seed, number] for number in range(len(rounds)))
    drawn = [drawn_by_length(table.lengths, part, seed=seed) for part, seed in zip(rounds, seeds, strict=True)]
    return SamplingOrder([rows.tolist() for rows in drawn], sequence=True)


def rounds_of(ids: Sequence[str], tokens: Sequence[int], count: int) -> list[list[int]]:
    """Return the tokens of samples, cut before each sample that is in the part already, and after `count` samples."""
    rounds: list[list[int]] = [[]]
    seen: set[str] = set()
    for sample_id, length in zip(ids, tokens, strict=True):
        if sample_id in seen or len(rounds[-1]) == count:
            rounds.append([])
            seen.clear()
        seen.add(sample_id)
        rounds[-1].append(length)
    return rounds
