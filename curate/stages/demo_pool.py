"""`curate demo-pool`: generate a pool with planted duplicates and noise, for the demo and for tests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..config import REF, Config
from ..errors import DataError
from ..store import Draft
from ..store.artifacts.files import write_text
from ..store.artifacts.safe_files import read_text
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
    """Configuration of `curate demo-pool`."""

    rows: int = Field(2000, ge=1, description="Number of rows, including duplicates and noise.")
    seed: int = Field(0, description="Seed of the generator; the same seed gives the same bytes on every machine.")
    noise: float = Field(0.1, ge=0, lt=1, description="Share of rows that are wrong, off topic, garbled or cut off.")
    duplicates: float = Field(0.1, ge=0, lt=1, description="Share of rows that copy a clean row, half of them exactly.")
    even: bool = Field(
        False, description="Generate all families of problems in equal shares, instead of a few large and many small."
    )
    exclude: Annotated[str | None, REF] = Field(
        None, description="A demo pool whose questions are not generated, in any phrasing: for held-out pools."
    )


def run(config: DemoPoolConfig, inputs: Inputs, draft: Draft) -> None:
    """Write `pool.jsonl`: Alpaca columns, and the planted truth.

    The truth is in the columns `family`, `noise` and `origin`, the row that a duplicate copies, counted from 0.
    """
    from ..demo.pool import generate, questions, to_jsonl

    exclude = []
    if other := inputs.artifacts.get("exclude"):
        if other.stage != "demo-pool":
            raise DataError(f"--exclude {other.name} was made by {other.stage}. Give the name of a demo pool.")
        exclude = questions(read_text(other.files / FILE))
    options = config.model_dump(include={"rows", "seed", "noise", "duplicates", "even"})
    pool = generate(**options, exclude=exclude)
    write_text(draft.files / FILE, to_jsonl(pool))
    draft.rows = len(pool)
    draft.summary = {
        "families": dict(Counter(row["family"] for row in pool).most_common()),
        "planted": dict(Counter(row["noise"] for row in pool if row["noise"]).most_common()),
    }


STAGE = Stage(DemoPoolConfig, run, EXAMPLES)
