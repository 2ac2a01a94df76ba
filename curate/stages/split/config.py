"""Options of `curate split`."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from ...config import NAME, Config, Ref
from ...errors import ConfigError, did_you_mean


class SplitConfig(Config):
    """Options of `curate split`: the parts of a pool, and the part that becomes a pool of its own."""

    pool: Ref = Field(description="Pool to split.")
    shares: dict[str, float] = Field(
        description="Names of the parts, with their shares of the pool: train=0.9,held=0.1. The largest part keeps all "
        "rows of its copies, every other part one row of each group of copies."
    )
    part: str = Field(description="Name of the part to make; the same options with another part make the others.")
    against: Ref | None = Field(None, description="Leave out the rows with a copy in this other pool.")
    threshold: float = Field(
        0.8, ge=0.2, le=1, description="Least Jaccard similarity of near copies, as in curate dedup."
    )
    seed: int = Field(0, description="Seed of the random choice of rows.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, share in self.shares.items():
            if not NAME.match(name) or not (math.isfinite(share) and 0 < share <= 1):
                raise ConfigError(f"--shares {name}={share}: a part has a name, and a share above 0 and at most 1.")
        if not self.shares or sum(self.shares.values()) > 1 + 1e-9:
            raise ConfigError("The shares of the parts must add up to at most 1: --shares train=0.9,held=0.1.")
        if self.part not in self.shares:
            raise ConfigError(
                f"--part {self.part} is not one of the parts in --shares.{did_you_mean(self.part, self.shares)}"
            )
        return self
