"""`curate demo-pool`: a generated pool with planted duplicates and noise, for the demo and for tests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..config import REF, Config
from ..errors import DataError
from ..store import Draft
from ..store.artifacts.files import write_text
from .stage import Stage

if TYPE_CHECKING:
    from .inputs import Inputs

FILE = "pool.jsonl"

EXAMPLES = """
curate demo-pool --name demo-pool
curate demo-pool --name demo-pool --rows 5000 --seed 7 --noise 0.2 --duplicates 0.3
curate demo-pool --name demo-heldout-raw --rows 400 --seed 1 --noise 0 --duplicates 0 --even --exclude demo-pool
"""


class DemoPoolConfig(Config):
    """What the pool is made of."""

    rows: int = Field(2000, ge=1, description="Rows, with duplicates and noise.")
    seed: int = Field(0, description="The same seed makes the same bytes on every machine.")
    noise: float = Field(0.1, ge=0, lt=1, description="Share of rows that are wrong, off topic, garbled or cut off.")
    duplicates: float = Field(0.1, ge=0, lt=1, description="Share of rows that copy a clean row, half of them exactly.")
    even: bool = Field(False, description="All families in equal shares, instead of a heavy tail.")
    exclude: Annotated[str | None, REF] = Field(
        None, description="A demo pool whose questions are left out, however they are phrased: for held-out pools."
    )


def run(config: DemoPoolConfig, inputs: Inputs, draft: Draft) -> None:
    """Write `pool.jsonl`: Alpaca columns, and what is planted in `family`, `noise` and `origin` (a row from 0)."""
    from ..demo.pool import generate, questions, to_jsonl

    excluded = []
    if other := inputs.artifacts.get("exclude"):
        if other.stage != "demo-pool":
            raise DataError(f"--exclude {other.name} was made by {other.stage}. Give the name of a demo-pool.")
        excluded = questions((other.files / FILE).read_text(encoding="utf-8"))
    asked = config.model_dump(include={"rows", "seed", "noise", "duplicates", "even"})
    pool = generate(**asked, exclude=excluded)
    write_text(draft.files / FILE, to_jsonl(pool))
    draft.rows = len(pool)
    draft.summary = {
        "families": dict(Counter(row["family"] for row in pool).most_common()),
        "planted": dict(Counter(row["noise"] for row in pool if row["noise"]).most_common()),
    }


STAGE = Stage(DemoPoolConfig, run, EXAMPLES)
