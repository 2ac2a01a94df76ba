"""Work in tasks that are independent of each other: in one process, in those of one launch, or on a Ray cluster.

Whoever makes a task leaves it in the store, whole or not at all, and it comes out the same whoever makes it. So nobody
needs to be told what is done: it is looked up, and a task that got lost with its worker is made again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from ..config import NOT_HASHED
from ..errors import ConfigError
from ..runtime.distributed import size
from .local import LocalExecutor
from .work import Executor, Task, Work


class ExecutionOptions(BaseModel):
    """Who does a stage's work. The result is the same, file by file (on CPUs: with the same OMP_NUM_THREADS)."""

    engine: Annotated[Literal["local", "ray"], NOT_HASHED] = Field(
        "local", description="Who works: local (this process, or those of torchrun), or the workers of a Ray cluster."
    )
    workers: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Of --engine ray: how many; as many as it has GPUs, or CPUs but one, where not given."
    )

    @model_validator(mode="after")
    def _who(self) -> ExecutionOptions:
        if self.workers is not None and self.engine != "ray":
            raise ConfigError("--workers counts the workers of --engine ray; else give torchrun --nproc-per-node.")
        return self

    def session(self) -> AbstractContextManager[object]:
        """Within it there is a Ray cluster to work on, where one is asked for."""
        if self.engine == "local":
            return nullcontext()
        if size() > 1:
            raise ConfigError("--engine ray starts its workers itself: leave torchrun out.")
        from .ray import session

        return session(self.workers)


def executor_for(work: Work[Task], options: ExecutionOptions, *, once: bool) -> Executor[Task]:
    """Whoever is to do the work; within `options.connected()`.

    Args:
        work: what.
        options: who.
        once: there will be one call of `make`; else workers stay for the next.
    """
    if options.engine == "local":
        return LocalExecutor(work)
    from .ray import RayActorExecutor, RayDataExecutor

    return RayDataExecutor(work, options.workers) if once else RayActorExecutor(work, options.workers)
