"""Options of `curate dedup`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...config import Config, Ref


class DedupConfig(Config):
    """Options of `curate dedup`: what is compared, what counts as a copy, and which sample of a group is kept."""

    pool: Ref = Field(description="Pool of the samples.")
    by: Literal["exact", "minhash"] = Field(
        "minhash",
        description="exact: only samples with the same text are copies, apart from case, white space and Unicode form. "
        "minhash: also samples with nearly the same text.",
    )
    on: Literal["prompt", "answer", "both"] = Field(
        "both",
        description="Text to compare: the last answer, the prompt before it, or both together; then the answers must "
        "be copies by themselves, too, and the same prompt with another answer is listed and kept.",
    )
    threshold: float = Field(
        0.8,
        ge=0.2,
        le=1,
        description="Least Jaccard similarity of near copies: the share of their sequences of three words that both "
        "have (minhash).",
    )
    keep: Literal["first", "longest"] = Field(
        "first", description="Sample of a group to keep: the first in the pool, or the one with the longest text."
    )
    against: Ref | None = Field(
        None, description="Leave out the samples with a copy in this other pool, too; it must not be the same pool."
    )
