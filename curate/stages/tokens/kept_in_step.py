"""Samples that a run kept in a step, with the tokens that it trained on, from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ...store import Artifact, Store

if TYPE_CHECKING:
    from ...lm.tokens.encode import Encoded


@dataclass(frozen=True)
class KeptInStep:
    """Samples that a run kept in a step.

    Attributes:
        step: the step.
        masks: sample id -> the bits of its target tokens, as in the ledger; None: all were trained on.
        targets: sample id -> number of its target tokens.
    """

    step: int
    masks: Mapping[str, bytes | None]
    targets: Mapping[str, int]

    def encoded(self, sample_id: str, encoded: Encoded | None, max_length: int) -> Encoded:
        """Return a kept sample whose targets are the tokens that were trained on.

        Raises:
            ConfigError: it has another number of target tokens than in the run.
        """
        import numpy as np

        own, before = 0 if encoded is None else encoded.truncate(max_length).target_tokens, self.targets[sample_id]
        if encoded is None or own != before:
            raise ConfigError(
                f"Sample {sample_id} had {before} target tokens in the run and has {own} here: give the --model and "
                "--chat-template of the run, and no other --max-length, --loss-on or --turns."
            )
        mask = self.masks[sample_id]
        if mask is None:
            return encoded
        if len(mask) != -(-own // 8):
            raise ConfigError(f"The ledger's token mask of sample {sample_id} has another length than its targets.")
        target = encoded.target.copy()
        target[np.flatnonzero(target[1:])[:own] + 1] = np.unpackbits(np.frombuffer(mask, np.uint8))[:own].astype(bool)
        return replace(encoded, target=target)


def kept_in_step(store: Store, run: Artifact, pool: Artifact, step: int | None) -> KeptInStep:
    """Return what a run kept in a step; None: in its last step.

    Raises:
        ConfigError: the run has no such step, or was trained on another pool.
    """
    if run.inputs.get("pool") != pool.fingerprint:
        raise ConfigError(f"The run '{run.name}' was not trained on the pool '{pool.name}'.")
    name = store.display_names()[run.fingerprint]
    last = store.query("SELECT max(step) AS last FROM ledger WHERE run = $run", {"run": name})["last"][0].as_py()
    if last is None or (step is not None and step > last):
        raise ConfigError(f"The run '{run.name}' has {last or 0} steps in its ledger, so no step {step or 1}.")
    sql = "SELECT sample_id, token_mask, target_tokens FROM ledger WHERE run = $run AND step = $step AND kept"
    rows = store.query(sql, {"run": name, "step": step or last}).to_pylist()
    return KeptInStep(
        step or last,
        {row["sample_id"]: row["token_mask"] for row in rows},
        {row["sample_id"]: row["target_tokens"] for row in rows},
    )
