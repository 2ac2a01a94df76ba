"""Choose the samples of a pool that an evaluation measures."""

from __future__ import annotations

from dataclasses import dataclass

from ...samples import Sample
from ...store import Artifact
from ..inputs import Inputs
from ..subsets import subset_of
from ..tokens.turns import conversations_of


@dataclass(frozen=True)
class Chosen:
    """The samples of a subset, which are conversations or single answers of them.

    Attributes:
        ids: ids of the samples.
        conversations: ids of their conversations.
    """

    ids: frozenset[str]
    conversations: frozenset[str]

    @classmethod
    def of(cls, inputs: Inputs, pool: Artifact) -> Chosen | None:
        """Return the samples of the subset that the inputs name, or None.

        Raises:
            DataError: the subset is of another pool.
        """
        subset = inputs.artifacts.get("subset")
        ids = subset_of(pool, subset)
        if subset is None or ids is None:
            return None
        return cls(frozenset(ids), frozenset(conversations_of(inputs.store, subset, ids)))

    def rows(self, pool: Artifact, limit: int | None) -> int:
        """Return how many rows at the beginning of the pool hold all samples, or the first `limit` of them."""
        at = [
            position
            for table in pool.tables(["sample_id", "position"])
            for sample_id, position in zip(table["sample_id"].to_pylist(), table["position"].to_pylist(), strict=True)
            if sample_id in self.conversations
        ]
        return at[: limit or len(at)][-1] + 1 if at else 0

    def has(self, conversation: Sample, sample: Sample) -> bool:
        """Return whether the conversation, or this part of it, is in the subset."""
        return conversation.sample_id in self.ids or sample.sample_id in self.ids
