"""Join the losses of an earlier checkpoint to those of this one: `loss_before` and `learnability`.

Samples are joined by their id, so the earlier features may be of a smaller pool. Both must have been measured on the
same tokens, or the difference of the losses would say nothing.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, DataError
from ...log import LOGGER
from ...store import Draft
from ...store.artifacts.parquet import read_parquet, write_parquet
from ..inputs import Inputs
from ..tokens.turns import conversations_of
from .earlier import reading_of

COLUMNS = ("loss_before", "learnability")

LOSSES = "SELECT sample_id, any_value(loss) AS loss FROM features WHERE features = $features GROUP BY sample_id"


def write_before(inputs: Inputs, reading: str, path: Path) -> None:
    """Write the losses of the features of `--before`, by sample.

    Args:
        inputs: inputs of the pass, `before` among them.
        reading: digest of the tokenization of this pass.
        path: the Parquet file to write, atomically.

    Raises:
        ConfigError: the same model made them, they have no losses, or their losses are of other tokens.
        DataError: none of their samples is in the pool.
    """
    before, pool = inputs.artifacts["before"], inputs.artifacts["pool"]
    if before.inputs.get("model") == inputs.fingerprints["model"]:
        raise ConfigError(f"The model of --before '{before.name}' is the model of this command: give another of them.")
    if reading_of(before) != reading:
        raise ConfigError(
            f"The features '{before.name}' were measured with another tokenizer, chat template, --date, --max-length "
            "or --loss-on than this command has, so their losses are not of the same tokens. Give the same options."
        )
    losses = inputs.store.query(LOSSES, {"features": inputs.store.display_names()[before.fingerprint]})
    losses = losses.filter(pc.is_valid(losses["loss"])).sort_by("sample_id")
    if not len(losses):
        raise ConfigError(f"The features '{before.name}' have no losses: embed their pool with --signals loss.")
    known = pa.array(set(conversations_of(inputs.store, before, losses["sample_id"].to_pylist())), pa.string())
    if not any(pc.any(pc.is_in(part["sample_id"], known)).as_py() for part in pool.tables(["sample_id"])):
        raise DataError(f"No sample of the pool '{pool.name}' is in the features '{before.name}': give others.")
    write_parquet(path, losses)


class Before:
    """Losses by sample, as `write_before` wrote them.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        losses = read_parquet(path).combine_chunks()
        self._ids, self._losses = losses["sample_id"].combine_chunks(), losses["loss"]

    def joined(self, records: pa.Table) -> pa.Table:
        """Return records with the columns `loss_before` and `learnability`; null for a sample that was not there."""
        earlier = self._losses.take(pc.index_in(records["sample_id"], value_set=self._ids))
        learnt = pc.subtract(earlier, records["loss"])
        return records.append_column(COLUMNS[0], earlier).append_column(COLUMNS[1], learnt)


def count_missing(draft: Draft, name: str) -> int:
    """Return how many samples have no earlier loss, and warn if there are any."""
    missing = int(sum(records["loss_before"].null_count for records in draft.added("features", ["loss_before"])))
    if missing:
        LOGGER.warning(
            f"{missing} samples are not in the features '{name}': their loss_before and learnability are null."
        )
    return missing
