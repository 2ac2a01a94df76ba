"""Work in pieces that are independent of each other: in one process, in those of one launch, or on a Ray cluster.

Whoever makes a piece leaves it in the store, whole or not at all, and it comes out the same whoever makes it. So nobody
needs to be told what is done: it is looked up, and a piece that got lost with its worker is made again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from ..config import INERT
from ..errors import ConfigError
from ..runtime.distributed import size
from .local import Share
from .work import Crew, Piece, Work


class Spreading(BaseModel):
    """Who does a stage's work. The result is the same, file by file (on CPUs: with the same OMP_NUM_THREADS)."""

    engine: Annotated[Literal["local", "ray"], INERT] = Field(
        "local", description="Who works: local (this process, or those of torchrun), or the workers of a Ray cluster."
    )
    workers: Annotated[int | None, INERT] = Field(
        None, ge=1, description="Of --engine ray: how many; as many as it has GPUs, or CPUs but one, where not given."
    )

    @model_validator(mode="after")
    def _who(self) -> Spreading:
        if self.workers is not None and self.engine != "ray":
            raise ConfigError("--workers counts the workers of --engine ray; else give torchrun --nproc-per-node.")
        return self

    def connected(self) -> AbstractContextManager[object]:
        """Within it there is a Ray cluster to work on, where one is asked for."""
        if self.engine == "local":
            return nullcontext()
        if size() > 1:
            raise ConfigError("--engine ray starts its workers itself: leave torchrun out.")
        from .ray import connected

        return connected(self.workers)


def crew_of(work: Work[Piece], spreading: Spreading, *, once: bool) -> Crew[Piece]:
    """Whoever is to do the work; within `spreading.connected()`.

    Args:
        work: what.
        spreading: who.
        once: there will be one call of `make`; else workers stay for the next.
    """
    if spreading.engine == "local":
        return Share(work)
    from .ray import Pass, Team

    return Pass(work, spreading.workers) if once else Team(work, spreading.workers)
